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
    steps: str,
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
        steps: Steps to do, such as 1.1,1.2 or 1.1..1.3; empty for all.
        force: Do the step again even if it is committed.
        model: Manifest of the trained stage.
        metrics: Its headline measures.
        summary: What trained, its measures against their gates, time and place.
        task_config: What KFP was told for this task; it goes to the pods of the job.
    """
    from vita_train.pipeline.opening import one_message, open_run
    from vita_train.pipeline.steps import publish, train_step

    with one_message():
        opened, selection = open_run(recipe, run, storage_root, overrides, steps, force)
        publish(opened, train_step(opened, stage, selection, task_config), model, metrics, summary)
