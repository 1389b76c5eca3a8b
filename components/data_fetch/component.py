"""Get the raw data of a run."""

from kfp.dsl import Dataset, Metrics, Output

from components.base import data_component


@data_component
def data_fetch(
    recipe: str,
    run: str,
    storage_root: str,
    overrides: list,
    only: str,
    from_step: str,
    until_step: str,
    force: bool,
    stages: str,
    raw: Output[Dataset],
    metrics: Output[Metrics],
) -> None:
    """Get the recipe's data: make it, fetch it, or find the user's own.

    Args:
        recipe: Name of a shipped recipe, path, URI, or the YAML text itself.
        run: Name of the run; empty takes the recipe's; {date} in it is filled in.
        storage_root: Directory or s3:// URI of runs; empty takes the recipe's.
        overrides: Settings as key.path=value.
        only: Steps to do, with commas between them; empty for all.
        from_step: Do this step and all that wait for it; empty for all.
        until_step: Do this step and all that it waits for; empty for all.
        force: Do the step again even if it is committed.
        stages: Stages of this pipeline as JSON, with those that each waits for; a recipe with
            others is refused.
        raw: Manifest of the fetched data.
        metrics: Its measures.
    """
    from vita_train.pipeline import opening, steps

    with opening.one_message():
        opened, selection = opening.open_run(
            recipe, run, storage_root, overrides, only, from_step, until_step, force
        )
        steps.check_pipeline(opened.recipe, stages)
        steps.publish(opened, steps.fetch_step(opened, selection), raw, metrics)
