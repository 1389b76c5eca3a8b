"""Traffic of a step on many ranks, held against what the mathematics cannot do without."""

from functools import cache

import pytest
import torch
from torch import nn
from torch.distributed.tensor import Shard

from vita_train.planning.plan import plan_stage
from vita_train.planning.simulate import Simulation, simulate_stage
from vita_train.recipe.load import load_recipe
from vita_train.recipe.schema import Recipe
from vita_train.training.engines.fsdp2 import shard_dimension

#: Of the published widths, which decide what is exchanged, and few layers, which decide how long
#: this takes.
_SHALLOW = (
    "model.llm.num_layers=2",
    "model.vision.num_layers=2",
    "model.audio_encoder.num_layers=2",
    "model.speech_decoder.nar_layers=1",
    "model.speech_decoder.ar_layers=1",
    "data.audio.max_seconds=4",
)
_FEW, _MANY = 2, 32  # nodes of eight
_PARTS = 2
#: Bytes that all ranks together must know of a step, and what padding to whole shards adds.
_CONTROL, _PADDING = 4096, 1.02


def _on(nodes: int, stage: str, *settings: str) -> Recipe:
    ranks = 8 * nodes
    batch = {"global_batch_size": ranks * _PARTS, "grad_accum": _PARTS}
    if load_recipe("vita-1.5-7b").stages[stage].objective == "next_token":
        batch |= {"seq_len": 512, "max_tiles": 1, "max_audio_frames": 400}
    sets = [f"stages.{stage}.batch.{name}={value}" for name, value in batch.items()]
    return load_recipe("vita-1.5-7b", [*_SHALLOW, *sets, f"launch.nodes={nodes}", *settings])


@cache
def _run(nodes: int, stage: str, *settings: str) -> Simulation:
    found = simulate_stage(_on(nodes, stage, *settings), stage)
    assert found is not None
    return found


def _must(recipe: Recipe, stage: str) -> float:
    """Return the bytes that a rank has to send where nothing is sent twice, from counts of
    parameters alone."""
    plan, spec, ranks = plan_stage(recipe, stage), recipe.stages[stage], recipe.launch.ranks
    total, trained = sum(plan.modules.values()), sum(plan.trained.values())
    share, width, parts = (ranks - 1) / ranks, plan.compute_bytes, spec.batch.grad_accum
    if spec.engine.kind == "torch":
        return 2 * share * 4 * trained + _CONTROL
    if spec.engine.zero < 3:
        return share * width * trained * ((parts if spec.engine.zero == 2 else 1) + 1) + _CONTROL
    return share * parts * (2 * width * total + width * trained) + _CONTROL


@pytest.mark.parametrize(
    "stage",
    [
        "1.1",
        "1.2",
        "2.1a",
        *(pytest.param(stage, marks=pytest.mark.slow) for stage in ("2.1b", "2.2", "3.1", "3.2")),
    ],
)
def test_no_stage_sends_more_than_it_must_on_any_number_of_ranks(stage: str) -> None:
    few, many = _run(_FEW, stage), _run(_MANY, stage)
    assert many.calls == few.calls, "calls do not depend on the number of ranks"
    for nodes, found in ((_FEW, few), (_MANY, many)):
        assert 0 < found.sent <= _PADDING * _must(_on(nodes, stage), stage)
    # (n - 1) / n of the whole: what a rank sends grows from 15/16 to 255/256 and no more.
    assert many.sent <= _PADDING * few.sent * (255 / 256) / (15 / 16) + _CONTROL


def test_tables_with_few_rows_are_cut_where_no_padding_is_sent() -> None:
    def along(*shape: int) -> object:
        return shard_dimension(nn.Parameter(torch.empty(shape, device="meta")), ranks=256)

    assert along(1, 1025, 1024) == Shard(2), "a row for each rank would be 256 tables"
    assert along(3584, 3584) is None
    assert along(32) is None
    assert along(1, 1025, 1000) is None, "nothing divides evenly"


@pytest.mark.slow
def test_shards_within_a_node_keep_weights_off_the_network() -> None:
    shipped = "stages.1.2.engine={kind: fsdp2, dtype: bfloat16, checkpoint_activations: auto"
    flat, nested = (_run(_FEW, "1.2", f"{shipped}{end}") for end in ("}", ", shard: node}"))

    def between(found: Simulation, name: str = "") -> float:
        return sum(
            traffic.sent
            for call, traffic in found.traffic.items()
            if call.between_nodes and (not name or call.name == name)
        )

    assert between(flat, "all_gather") > 0
    assert between(nested, "all_gather") == 0
    trained = sum(plan_stage(_on(_FEW, "1.2"), "1.2").trained.values())
    # A shard's gradient, in float32, once over the two nodes.
    assert between(nested) == pytest.approx(2 * (1 / 2) * 4 * trained / 8, rel=0.02)
    assert between(nested) < between(flat) / 10
