"""Every optimizer that a recipe may name learns, keeps its state, and float16's loss scale finds
its way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vita_train.recipe.stage import EngineSpec, OptimSpec
from vita_train.training.optim.factory import build_optimizer
from vita_train.training.optim.loss_scale import FIRST, WINDOW, LossScale


def problem() -> tuple[nn.Linear, Tensor, Tensor]:
    torch.manual_seed(0)
    return nn.Linear(64, 128), torch.randn(32, 64), torch.randn(32, 128)


@pytest.mark.parametrize("kind", ["adamw", "muon", "adafactor", "adamw_8bit"])
def test_an_optimizer_learns_and_goes_on_from_its_state(kind: str) -> None:
    if kind == "adamw_8bit":
        pytest.importorskip("bitsandbytes")
    layer, inputs, targets = problem()
    groups = [{"params": list(layer.parameters()), "lr": 1e-2, "weight_decay": 0.0}]
    spec = OptimSpec.model_validate({"kind": kind})
    optimizer = build_optimizer(layer, groups, spec)

    def steps(number: int) -> float:
        for _ in range(number):
            loss = (layer(inputs) - targets).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    first = steps(1)
    steps(10)
    kept = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    state = torch.utils._pytree.tree_map(
        lambda value: value.clone() if isinstance(value, Tensor) else value, optimizer.state_dict()
    )
    ahead = steps(5)
    assert ahead < 0.97 * first
    layer.load_state_dict(kept)
    optimizer = build_optimizer(layer, groups, spec)
    optimizer.load_state_dict(state)
    assert steps(5) == ahead


def test_eight_bits_take_a_quarter_of_the_memory() -> None:
    pytest.importorskip("bitsandbytes")
    layer, inputs, targets = problem()
    groups = [{"params": [layer.weight], "lr": 1e-2, "weight_decay": 0.0}]
    sizes = {}
    for kind in ("adamw", "adamw_8bit"):
        optimizer = build_optimizer(layer, groups, OptimSpec.model_validate({"kind": kind}))
        layer.zero_grad()
        (layer(inputs) - targets).square().mean().backward()
        optimizer.step()
        state = optimizer.state[layer.weight]
        sizes[kind] = sum(v.nbytes for v in state.values() if isinstance(v, Tensor))
    assert sizes["adamw_8bit"] < 0.4 * sizes["adamw"]


def test_the_scale_halves_where_gradients_overflow_and_grows_where_they_do_not() -> None:
    scale = LossScale(dynamic=True)
    assert (scale.value, scale.halvings) == (FIRST, 16)
    for _ in range(20):
        scale.update(finite=False)
    assert (scale.value, scale.halvings) == (1.0, 0)
    for _ in range(WINDOW - 1):
        scale.update(finite=True)
    scale.update(finite=False)  # one that overflows begins the count anew
    for _ in range(WINDOW):
        scale.update(finite=True)
    assert scale.value == 2.0
    other = LossScale(dynamic=True)
    other.load(scale.state())
    assert (other.value, other.good_steps) == (scale.value, scale.good_steps)
    fixed = LossScale(dynamic=False)
    fixed.update(finite=False)
    assert (fixed.value, fixed.halvings) == (1.0, 0)


def test_float16_and_other_optimizers_need_the_plain_engine() -> None:
    with pytest.raises(ValueError, match="float16 needs engine kind torch"):
        EngineSpec.model_validate({"kind": "fsdp2", "dtype": "float16"})
