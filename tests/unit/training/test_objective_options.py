"""Options of an objective, its lookup, and the step's random state."""

from __future__ import annotations

import pytest
import torch

from vita_train.errors import RecipeError
from vita_train.recipe.stage import ObjectiveName
from vita_train.training.objectives import objective_class
from vita_train.training.objectives.base import Objective, resolve_options
from vita_train.training.resume import seed_step


def test_every_objective_of_the_schema_has_a_class() -> None:
    for name in ObjectiveName.__args__:  # type: ignore[attr-defined]
        assert issubclass(objective_class(name), Objective)


def test_unknown_option_names_the_nearest() -> None:
    ctc = objective_class("ctc")
    with pytest.raises(RecipeError, match="did you mean frequency_masks"):
        resolve_options(ctc, {"freqency_masks": 3}, where="stages.2.1a.options")
    with pytest.raises(RecipeError, match="expected bool, got 1"):
        resolve_options(ctc, {"augment": 1}, where="stages.2.1a.options")
    assert resolve_options(ctc, {"gain": 2}, where="")["gain"] == 2.0


def test_random_state_is_a_function_of_seed_step_and_rank() -> None:
    def draw(seed: int, step: int, rank: int) -> float:
        seed_step(seed, step, rank)
        return float(torch.rand(()))

    values = [draw(0, 5, 0), draw(0, 5, 1), draw(0, 6, 0), draw(1, 5, 0)]
    assert len(set(values)) == 4
    assert draw(0, 5, 0) == values[0]
