"""What ``checkpoint_activations: auto`` finds free, and what it comes to for the real recipe."""

from __future__ import annotations

import pytest

from vita_train.planning.plan import plan_stage
from vita_train.planning.step_trace import policies_of
from vita_train.recipe.load import load_recipe
from vita_train.training.checkpointing import MOST_LIVE, SHARE, activation_room

GB = 1e9


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_room_is_what_the_planner_leaves_of_a_device(zero: int) -> None:
    recipe = load_recipe(
        "vita-1.5-7b", ["launch.nodes=2", f"stages.1.2.engine={{kind: deepspeed, zero: {zero}}}"]
    )
    plan = plan_stage(recipe, "1.2")
    held = plan.state_bytes(zero, 16) + (2 * MOST_LIVE if zero == 3 else 0)
    room = activation_room(80 * GB, plan.modules, recipe.stages["1.2"], 16, 8)
    assert room == pytest.approx(SHARE * (80 * GB - held), abs=100)


def test_the_plain_engine_holds_float32_weights_and_their_copy() -> None:
    recipe = load_recipe("vita-1.5-7b")
    counts = {"llm": 1000, "projector": 10}
    room = activation_room(1e6, counts, recipe.stages["1.1"], 1, 1)
    assert room == pytest.approx(SHARE * (1e6 - 2 * 1000 - 18 * 10))


def test_what_is_cut_up_within_nodes_leaves_less_room() -> None:
    found = []
    for shard in ("world", "node"):
        recipe = load_recipe("vita-1.5-7b", [f"stages.1.2.engine={{kind: fsdp2, shard: {shard}}}"])
        counts = plan_stage(recipe, "1.2").modules
        found.append(activation_room(80 * GB, counts, recipe.stages["1.2"], 64, 8))
    assert found[0] > found[1] > 0


def test_the_real_recipe_keeps_more_the_more_room_there_is() -> None:
    again = []
    for ranks, memory in ((8, 48), (8, 80), (64, 80), (64, 141)):
        recipe = load_recipe("vita-1.5-7b", [f"launch.nodes={ranks // 8}"])
        spec, counts = recipe.stages["1.2"], plan_stage(recipe, "1.2").modules
        free = activation_room(memory * GB, counts, spec, ranks, 8)
        policies = policies_of(recipe, "1.2", 1, free)
        assert policies.pop("vision") == "selective"
        again.append(policies.get("llm", 0))
    few, some, fewer, none = again
    assert 28 > few > some > fewer > none == 0
