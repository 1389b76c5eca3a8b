"""Measure the finished model."""

from kfp.dsl import HTML, Artifact, Metrics, Output

from components.base import model_component


@model_component
def evaluate(
    recipe: str,
    run: str,
    storage_root: str,
    overrides: list,
    steps: str,
    force: bool,
    evaluation: Output[Artifact],
    metrics: Output[Metrics],
    samples: Output[HTML],
) -> None:
    """Measure every held-out slice and hold the gates of the recipe against it.

    Args:
        recipe: Name of a shipped recipe, path, URI, or the YAML text itself.
        run: Name of the run; empty takes the recipe's; {date} in it is filled in.
        storage_root: Directory or s3:// URI of runs; empty takes the recipe's.
        overrides: Settings as key.path=value.
        steps: Steps to do, such as 1.1,1.2 or 1.1..1.3; empty for all.
        force: Do the step again even if it is committed.
        evaluation: Manifest of the evaluation.
        metrics: Its measures.
        samples: What the model answers to held-out samples, to look at and to listen to.
    """
    from vita_train.pipeline.opening import one_message, open_run
    from vita_train.pipeline.steps import evaluate_step, publish, publish_samples

    with one_message():
        opened, selection = open_run(recipe, run, storage_root, overrides, steps, force)
        manifest = evaluate_step(opened, selection)
        publish(opened, manifest, evaluation, metrics)
        publish_samples(opened, manifest, samples)
