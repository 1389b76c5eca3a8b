"""Omni supervised fine-tuning."""

from kfp.dsl import Dataset, Input, Metrics, Model, Output, TaskConfig

from components.base import training_component


@training_component
def sft(
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
    corpus: Input[Dataset] = None,
    start: Input[Model] = None,
    task_config: TaskConfig = None,
) -> None:
    """Fine-tune on all modalities at once: spoken questions, negative audio, pictures and text.

    Args:
        stage: 2.2.
        recipe: Name of a shipped recipe, path, URI, or the YAML text itself.
        run: Name of the run; empty takes the recipe's.
        storage_root: Directory or s3:// URI of runs; empty takes the recipe's.
        overrides: Settings as key.path=value.
        only: Steps to do, with commas between them; empty for all.
        from_step: First step to do; empty for the first.
        until_step: Last step to do; empty for the last.
        force: Do the step again even if it is committed.
        model: Manifest of the trained stage.
        metrics: Its measures.
        corpus: Manifest of the prepared corpus; without it the run's own counts.
        start: Manifest of the stage before; without it the run's own counts.
        task_config: What KFP was told for this task; it goes to the pods of the job.
    """
    from vita_train.pipeline import steps
    resolved, name, selection = steps.open_run(recipe, run, storage_root, overrides, only, from_step, until_step, force)
    steps.publish(steps.train_step(resolved, name, stage, selection, task_config), model, metrics)
