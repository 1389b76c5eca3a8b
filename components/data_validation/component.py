"""Check and prepare the data of a run."""

from kfp.dsl import Dataset, Metrics, Output

from components.base import data_component


@data_component
def data_validation(
    recipe: str,
    run: str,
    storage_root: str,
    overrides: list,
    only: str,
    from_step: str,
    until_step: str,
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
        only: Steps to do, with commas between them; empty for all.
        from_step: Do this step and all that wait for it; empty for all.
        until_step: Do this step and all that it waits for; empty for all.
        force: Do the step again even if it is committed.
        corpus: Manifest of the prepared corpus.
        metrics: Its measures.
    """
    from vita_train.pipeline import opening, steps

    with opening.one_message():
        opened, selection = opening.open_run(
            recipe, run, storage_root, overrides, only, from_step, until_step, force
        )
        steps.publish(opened, steps.prepare_step(opened, selection), corpus, metrics)
