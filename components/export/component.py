"""Write the finished model."""

from kfp.dsl import HTML, Metrics, Model, Output

from components.base import model_component


@model_component
def export(
    recipe: str,
    run: str,
    storage_root: str,
    overrides: list,
    steps: str,
    force: bool,
    exported: Output[Model],
    metrics: Output[Metrics],
    page: Output[HTML],
) -> None:
    """Write the model into one directory, load it back and compare.

    Args:
        recipe: Name of a shipped recipe, path, URI, or the YAML text itself.
        run: Name of the run; empty takes the recipe's; {date} in it is filled in.
        storage_root: Directory or s3:// URI of runs; empty takes the recipe's.
        overrides: Settings as key.path=value.
        steps: Steps to do, such as 1.1,1.2 or 1.1..1.3; empty for all.
        force: Do the step again even if it is committed.
        exported: Manifest of the exported model.
        metrics: Its measures.
        page: The report. The step that writes it at the end of a run, whatever happened, is not
            run again by a retry.
    """
    from vita_train.pipeline.opening import one_message, open_run
    from vita_train.pipeline.steps import export_step, publish, publish_page, report_step

    with one_message():
        opened, selection = open_run(recipe, run, storage_root, overrides, steps, force)
        publish(opened, export_step(opened, selection), exported, metrics)
        publish_page(opened, report_step(opened, selection), page)
