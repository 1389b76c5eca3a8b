"""Objectives by the name a recipe gives them. Each class is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from vita_train.plugins import named
from vita_train.recipe.objectives import OBJECTIVES

if TYPE_CHECKING:
    from vita_train.training.objectives.base import Objective


def objective_class(name: str) -> type[Objective]:
    """Return the class of an objective, as its declaration names it.

    Raises:
        UserError: there is no such objective, or its class cannot be imported.
    """
    return cast("type[Objective]", named(OBJECTIVES[name].implementation))
