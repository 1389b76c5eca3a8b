"""What rows cost follows the shapes of the model and what trains."""

from __future__ import annotations

import pytest
import torch

from vita_train.models.build import build_modules
from vita_train.recipe.load import load_recipe
from vita_train.training.flops import flops_per_position, row_costs

NAMES = ("llm", "vision", "projector", "audio_encoder", "audio_adapter")


@pytest.fixture(scope="module")
def model():  # type: ignore[no-untyped-def]
    spec = load_recipe("tiny").model
    with torch.device("meta"):
        return spec, dict(build_modules(spec, NAMES).items())


def test_costs_by_hand(model) -> None:  # type: ignore[no-untyped-def]
    spec, modules = model
    costs = row_costs(spec, modules, [name for name in NAMES if name != "projector"])
    llm, vision = spec.llm, spec.vision
    head = llm.head_dim or llm.hidden_size // llm.num_heads
    block = (
        2 * llm.hidden_size * head * (llm.num_heads + llm.num_kv_heads)
        + 3 * llm.hidden_size * llm.intermediate_size
    )
    assert costs.token == pytest.approx(4 * block * llm.num_layers, rel=0.02)  # and norms, biases
    assert costs.pair == 6 * head * llm.num_heads * llm.num_layers
    counts = {
        name: sum(parameter.numel() for parameter in modules[name].parameters()) for name in NAMES
    }
    assert costs.tile == pytest.approx(
        2 * counts["vision"] * vision.positions + 6 * counts["projector"] * spec.tokens_per_tile
    )
    assert costs.frame > 0


def test_what_is_frozen_takes_less(model) -> None:  # type: ignore[no-untyped-def]
    spec, modules = model
    everything = row_costs(spec, modules, ())
    tuned = row_costs(spec, modules, ("audio_encoder", "audio_adapter"))
    assert everything.token == tuned.token
    assert everything.frame == pytest.approx(3 * tuned.frame)
    alone = flops_per_position({"llm": modules["llm"]}, ("llm",))
    behind = flops_per_position(modules, ("llm",))
    assert behind["llm"] == 2 * alone["llm"]


@pytest.mark.parametrize("name", ["vita-1.5-7b", "vila-1.5-3b", "auroracap-7b"])
def test_positions_are_those_that_a_tower_computes(name: str) -> None:
    vision = load_recipe(name, ["model.vision.drop_path=0"]).model.vision
    small = vision.model_copy(
        update={"hidden_size": 16, "num_heads": 1, "intermediate_size": 16, "num_layers": 2}
    )
    spec = load_recipe(name).model.model_copy(update={"vision": small})
    with torch.device("meta"):
        tower = build_modules(spec, ("vision",))["vision"]
        seen: list[int] = []
        for block in tower.blocks:
            block.register_forward_pre_hook(
                lambda _, arguments: seen.append(arguments[0].shape[:-1].numel())
            )
        tower(torch.zeros(1, 3, vision.tile_size, vision.tile_size))
    assert seen[0] == vision.positions
