"""Hold the prepared data and the recipe against each other before a stage trains."""

from kfp.dsl import Artifact, Markdown, Output

from components.base import model_component


@model_component
def preflight(
    recipe: str,
    run: str,
    storage_root: str,
    overrides: list,
    steps: str,
    force: bool,
    verdict: Output[Artifact],
    page: Output[Markdown],
) -> None:
    """Look at packages, pretrained sources and what is supervised, and train a batch of every mix.

    Args:
        recipe: Name of a shipped recipe, path, URI, or the YAML text itself.
        run: Name of the run; empty takes the recipe's; {date} in it is filled in.
        storage_root: Directory or s3:// URI of runs; empty takes the recipe's.
        overrides: Settings as key.path=value.
        steps: Steps to do, such as 1.1,1.2 or 1.1..1.3; empty for all.
        force: Do the step again even if it is committed.
        verdict: Manifest of the preflight.
        page: The outcome of every check, with its remedy.
    """
    from vita_train.pipeline.opening import one_message, open_run
    from vita_train.pipeline.steps import publish
    from vita_train.preflight.step import preflight_step, publish_page

    with one_message():
        opened, selection = open_run(recipe, run, storage_root, overrides, steps, force)
        manifest = preflight_step(opened, selection, page.path)
        publish_page(manifest, page)
        publish(opened, manifest, verdict)
