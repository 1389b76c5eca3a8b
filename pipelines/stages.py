"""One pipeline for each stage, for running it alone in a run that holds what it builds on."""

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from pipelines.build import named, trainer_of
from vita_train.recipe.schema import Recipe
from vita_train.recipe.selection import step_title


def stage_pipeline(recipe: Recipe, stage: str, *, name: str, default: str) -> BaseComponent:
    """Return the pipeline of one stage: a single task that reads the run's commits and adds its
    own.

    Args:
        recipe: that has the stage.
        stage: its name.
        name: of the pipeline on a server.
        default: what its parameter ``recipe`` is unless given.
    """
    title = step_title(recipe, stage)

    resolved = recipe  # the parameter of this name is another

    @dsl.pipeline(
        name=name,
        description=f"Train stage {stage}, {title}, of a run that holds what it builds on.",
    )
    def pipeline(
        recipe: str = default,
        run: str = "",
        storage_root: str = "",
        overrides: list = [],  # noqa: B006  KFP reads the default, nothing changes it
        force: bool = False,
    ) -> None:
        """Train one stage.

        Args:
            recipe: Name of a shipped recipe, path, URI, or the YAML text itself.
            run: Name of the run that holds the prepared corpus and the stages before; empty takes
                the recipe's.
            storage_root: Directory or s3:// URI under which runs lie; empty takes the recipe's.
            overrides: Settings as key.path=value, applied to the recipe in order.
            force: Do the stage again even if it is committed.
        """
        task = trainer_of(stage)(
            stage=stage,
            recipe=recipe,
            run=run,
            storage_root=storage_root,
            overrides=overrides,
            only=stage,
            from_step="",
            until_step="",
            force=force,
        )
        named(task, resolved, stage)

    return pipeline
