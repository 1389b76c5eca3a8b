"""One pipeline for each stage, for running it alone in a run that holds what it builds on."""

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from pipelines.cluster import on_cluster
from pipelines.ladder import CHAIN
from vita_train.recipe.ladder import STAGE_TITLES


def stage_pipeline(stage: str, component: BaseComponent) -> BaseComponent:
    """Return the pipeline of one stage: a single task that reads the run's commits and adds its own."""

    @dsl.pipeline(name=f"vita-train-stage-{stage.replace('.', '-')}",
                  description=f"Train stage {stage}, {STAGE_TITLES[stage]}, of a run that holds what it builds on.")
    def pipeline(
        recipe: str = "tiny",
        run: str = "",
        storage_root: str = "",
        overrides: list = [],  # noqa: B006  KFP reads the default, nothing changes it
        force: bool = False,
    ) -> None:
        """Train one stage.

        Args:
            recipe: Name of a shipped recipe, path, URI, or the YAML text itself.
            run: Name of the run that holds the prepared corpus and the stages before; empty takes the recipe's.
            storage_root: Directory or s3:// URI under which runs lie; empty takes the recipe's.
            overrides: Settings as key.path=value, applied to the recipe in order.
            force: Do the stage again even if it is committed.
        """
        task = component(stage=stage, recipe=recipe, run=run, storage_root=storage_root, overrides=overrides,
                         only=stage, from_step="", until_step="", force=force)
        on_cluster(task).set_display_name(f"{stage} {STAGE_TITLES[stage]}").set_caching_options(False)

    return pipeline


STAGE_PIPELINES: dict[str, BaseComponent] = {stage: stage_pipeline(stage, component) for stage, component in CHAIN}
