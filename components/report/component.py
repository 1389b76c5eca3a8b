"""The run as one page."""

from kfp.dsl import HTML, Output

from components.base import model_component


@model_component
def report(
    recipe: str,
    run: str,
    storage_root: str,
    overrides: list,
    steps: str,
    force: bool,
    page: Output[HTML],
) -> None:
    """Render the run as one HTML page, however far it came.

    Args:
        recipe: Name of a shipped recipe, path, URI, or the YAML text itself.
        run: Name of the run; empty takes the recipe's; {date} in it is filled in.
        storage_root: Directory or s3:// URI of runs; empty takes the recipe's.
        overrides: Settings as key.path=value.
        steps: Steps to do, such as 1.1,1.2 or 1.1..1.3; empty for all.
        force: Do the step again even if it is committed.
        page: The report.
    """
    from vita_train.pipeline.opening import open_run, shown_on
    from vita_train.pipeline.steps import publish_page, report_step

    with shown_on(page):
        opened, selection = open_run(recipe, run, storage_root, overrides, steps, force)
        publish_page(opened, report_step(opened, selection), page)
