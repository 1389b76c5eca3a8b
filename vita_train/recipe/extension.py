"""Stages that train longer than their recipe says, or go on although a gate was missed.

Both are settings of a stage (``extend``, ``accept``) that a user gives once, when a run has shown
the need for them. The run remembers them: they hold for every later command on it, until the
stage's own settings change.
"""

from __future__ import annotations

from collections.abc import Sequence

from vita_train.errors import RecipeError, UserError
from vita_train.recipe.aliases import stage_name
from vita_train.recipe.schema import Recipe
from vita_train.recipe.stage import StageSpec

_REMEMBERED = {"extend", "accept"}


def parse_extension(text: str) -> tuple[str, int]:
    """Return stage and steps of ``STAGE=STEPS``.

    Raises:
        UserError: it is written otherwise, or the steps are not a whole number above 0.
    """
    stage, _, steps = text.rpartition("=")
    if not stage or not steps.isdecimal() or int(steps) < 1:
        raise UserError(
            f"{text!r} is not STAGE=STEPS",
            code="VT-USE-089",
            where="--extend",
            remedy="for example --extend 1.2=100",
        )
    return stage, int(steps)


def remember(recipe: Recipe, earlier: Recipe | None) -> Recipe:
    """Return the recipe with the extensions and acceptances that an earlier command gave the same
    run.

    A stage whose other settings differ from the earlier ones is another stage: what was given to it
    is forgotten. What the recipe itself says goes first.
    """
    stages = dict(recipe.stages)
    for name, spec in recipe.stages.items():
        before = earlier.stages.get(name) if earlier else None
        if before is not None and _own(before) == _own(spec):
            stages[name] = spec.model_copy(
                update={
                    "extend": spec.extend or before.extend,
                    "accept": spec.accept or before.accept,
                }
            )
    return recipe.model_copy(update={"stages": stages})


def extended(recipe: Recipe, extend: Sequence[str], accept: Sequence[str]) -> Recipe:
    """Return the recipe with further steps (``STAGE=STEPS``) and stages whose missed gates are
    accepted.

    Raises:
        UserError: an extension is not ``STAGE=STEPS``, or the recipe lacks the stage.
    """
    stages = dict(recipe.stages)
    for text, steps in map(parse_extension, extend):
        stage = _stage(recipe, text, "--extend")
        stages[stage] = stages[stage].model_copy(update={"extend": [*stages[stage].extend, steps]})
    for text in accept:
        stage = _stage(recipe, text, "--accept")
        stages[stage] = stages[stage].model_copy(update={"accept": True})
    return recipe.model_copy(update={"stages": stages})


def _stage(recipe: Recipe, name: str, where: str) -> str:
    try:
        return stage_name(name, recipe.stages)
    except RecipeError as error:
        raise UserError(error.what, code=error.code, where=where, remedy=error.remedy) from None


def _own(spec: StageSpec) -> dict[str, object]:
    return spec.model_dump(mode="json", exclude=_REMEMBERED)
