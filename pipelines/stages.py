"""One pipeline for each stage, for running it alone in a run that holds what it builds on, behind
the preflight."""

from kfp.dsl.base_component import BaseComponent

from components.preflight.component import preflight
from pipelines.build import PARAMETERS, as_pipeline, named, trainer_of
from vita_train.recipe.schema import Recipe
from vita_train.recipe.selection import step_title


def stage_pipeline(recipe: Recipe, stage: str, *, name: str, default: str) -> BaseComponent:
    """Return the pipeline of one stage: a task that reads the run's commits and adds its own,
    behind the preflight.

    Args:
        recipe: that has the stage.
        stage: its name.
        name: of the pipeline on a server.
        default: what its parameter ``recipe`` is unless given.
    """
    title = step_title(recipe, stage)

    resolved = recipe  # the parameter of this name is another

    about = f"Train stage {stage}, {title}, of a run that holds what it builds on."

    def pipeline(
        recipe: str = default,
        run: str = "",
        storage_root: str = "",
        overrides: list = [],  # noqa: B006  KFP reads the default, nothing changes it
        force: bool = False,
    ) -> None:
        common = {
            "recipe": recipe,
            "run": run,
            "storage_root": storage_root,
            "overrides": overrides,
            "steps": stage,
            "force": force,
        }
        before = named(preflight(**common), resolved, "preflight")
        named(trainer_of(stage)(stage=stage, **common), resolved, stage).after(before)

    parameters = [parameter for parameter in PARAMETERS if parameter != "steps"]
    return as_pipeline(pipeline, name, about, parameters)
