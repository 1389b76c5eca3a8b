"""Train one stage of a recipe."""

from kfp.dsl import Markdown, Metrics, Model, Output, TaskConfig

from components.base import training_component


@training_component
def train_stage(
    stage: str,
    recipe: str,
    run: str,
    storage_root: str,
    overrides: list,
    only: str,
    from_step: str,
    until_step: str,
    force: bool,
    model: Output[Model],
    metrics: Output[Metrics],
    summary: Output[Markdown],
    task_config: TaskConfig = None,
) -> None:
    """Train a stage as a job and wait for it. What it starts from is found in the run.

    Args:
        stage: Name of the stage; one that the recipe lacks is passed over.
        recipe: Name of a shipped recipe, path, URI, or the YAML text itself.
        run: Name of the run; empty takes the recipe's; {date} in it is filled in.
        storage_root: Directory or s3:// URI of runs; empty takes the recipe's.
        overrides: Settings as key.path=value.
        only: Steps to do, with commas between them; empty for all.
        from_step: Do this step and all that wait for it; empty for all.
        until_step: Do this step and all that it waits for; empty for all.
        force: Do the step again even if it is committed.
        model: Manifest of the trained stage.
        metrics: Its headline measures.
        summary: What trained, its measures against their gates, time and place.
        task_config: What KFP was told for this task; it goes to the pods of the job.
    """
    from vita_train.pipeline import opening, steps

    with opening.one_message():
        opened, selection = opening.open_run(
            recipe, run, storage_root, overrides, only, from_step, until_step, force
        )
        steps.publish(
            opened, steps.train_step(opened, stage, selection, task_config), model, metrics, summary
        )
