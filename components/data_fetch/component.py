"""Get the raw data of a run."""

from kfp.dsl import Dataset, Metrics, Output

from components.base import data_component


@data_component
def data_fetch(
    recipe: str,
    run: str,
    storage_root: str,
    overrides: list,
    steps: str,
    force: bool,
    stages: str,
    raw: Output[Dataset],
    metrics: Output[Metrics],
) -> int:
    """Get the recipe's data: make it, fetch it, or find the user's own. Say from where on the run
    has something to do, as the place of the first such step among those that follow.

    Args:
        recipe: Name of a shipped recipe, path, URI, or the YAML text itself.
        run: Name of the run; empty takes the recipe's; {date} in it is filled in.
        storage_root: Directory or s3:// URI of runs; empty takes the recipe's.
        overrides: Settings as key.path=value.
        steps: Steps to do, such as 1.1,1.2 or 1.1..1.3; empty for all.
        force: Do the step again even if it is committed.
        stages: Stages of this pipeline as JSON, with those that each waits for; a recipe with
            others is refused.
        raw: Manifest of the fetched data.
        metrics: Its measures.
    """
    from vita_train.pipeline.opening import one_message, open_run
    from vita_train.pipeline.remaining import first_to_do
    from vita_train.pipeline.steps import check_pipeline, fetch_step, publish

    with one_message():
        opened, selection = open_run(
            recipe, run, storage_root, overrides, steps, force, is_first=True
        )
        check_pipeline(opened.recipe, stages)
        publish(opened, fetch_step(opened, selection), raw, metrics)
        return first_to_do(opened, selection, stages)
