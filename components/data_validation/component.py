"""Check and prepare the data of a run."""

from kfp.dsl import Dataset, Metrics, Output

from components.base import data_component


@data_component
def data_validation(
    recipe: str,
    run: str,
    storage_root: str,
    overrides: list,
    steps: str,
    force: bool,
    corpus: Output[Dataset],
    metrics: Output[Metrics],
) -> None:
    """Check every record, list what is rejected, and prepare the corpus.

    Args:
        recipe: Name of a shipped recipe, path, URI, or the YAML text itself.
        run: Name of the run; empty takes the recipe's; {date} in it is filled in.
        storage_root: Directory or s3:// URI of runs; empty takes the recipe's.
        overrides: Settings as key.path=value.
        steps: Steps to do, such as 1.1,1.2 or 1.1..1.3; empty for all.
        force: Do the step again even if it is committed.
        corpus: Manifest of the prepared corpus.
        metrics: Its measures.
    """
    from vita_train.pipeline.opening import one_message, open_run
    from vita_train.pipeline.steps import prepare_step, publish

    with one_message():
        opened, selection = open_run(recipe, run, storage_root, overrides, steps, force)
        publish(opened, prepare_step(opened, selection), corpus, metrics)
