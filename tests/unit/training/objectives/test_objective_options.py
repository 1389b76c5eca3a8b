"""Options of an objective, its lookup, and the step's random state."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from tests.helpers.errors import raises_code
from vita_train.errors import RecipeError
from vita_train.recipe.load import load_recipe
from vita_train.recipe.objectives import OBJECTIVES
from vita_train.training.objectives import objective_class
from vita_train.training.objectives.base import Objective, resolve_options
from vita_train.training.resume import seed_step


def test_every_objective_has_a_class() -> None:
    for name in OBJECTIVES:
        assert issubclass(objective_class(name), Objective)


def test_unknown_option_names_the_nearest() -> None:
    ctc = objective_class("ctc")
    with raises_code(RecipeError, "VT-RECIPE-069", "frequency_masks"):
        resolve_options(ctc, {"freqency_masks": 3}, where="stages.2.1a.options")
    with raises_code(RecipeError, "VT-RECIPE-070"):
        resolve_options(ctc, {"augment": 1}, where="stages.2.1a.options")
    assert resolve_options(ctc, {"gain": 2}, where="")["gain"] == 2.0


def test_a_module_that_no_record_reaches_is_refused() -> None:
    nothing = SimpleNamespace(tiles=np.zeros(3), frames=np.zeros(3))
    corpus = SimpleNamespace(index=lambda name, split: nothing)
    spec = load_recipe("smoke").stages["2.1b"]
    with raises_code(RecipeError, "VT-RECIPE-074", "audio_adapter", "asr", "audio"):
        objective_class("next_token").modules_used(spec, corpus)  # type: ignore[arg-type]


def test_random_state_is_a_function_of_seed_step_and_rank() -> None:
    def draw(seed: int, step: int, rank: int) -> float:
        seed_step(seed, step, rank)
        return float(torch.rand(()))

    values = [draw(0, 5, 0), draw(0, 5, 1), draw(0, 6, 0), draw(1, 5, 0)]
    assert len(set(values)) == 4
    assert draw(0, 5, 0) == values[0]
