"""Frozen is frozen: names, gradients, modes and optimizer groups."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from tests.helpers.errors import raises_code
from tests.helpers.toy import (
    ToyBatch,
    ToyObjective,
    global_batch,
    toy_context,
    toy_modules,
    toy_recipe,
)
from vita_train.errors import RecipeError, VitaError
from vita_train.training.engines.base import EngineContext
from vita_train.training.engines.factory import build_engine
from vita_train.training.freeze import apply_trainable, assert_trainable, param_groups
from vita_train.training.parallel.distributed import World

ALONE = World(0, 1, 0, torch.device("cpu"))


def objective_with(trainable: dict[str, float], **stage: Any) -> ToyObjective:
    recipe = toy_recipe(trainable=trainable, **stage)
    return ToyObjective(toy_context(recipe, "1.2"), toy_modules())


def step_once(objective: ToyObjective) -> Any:
    engine = build_engine(objective, EngineContext(objective.context.spec, ALONE, torch.float32))
    batch = objective.collate(global_batch(0), seed=0)
    engine.forward_backward(batch, "main", 1 / objective.weight(batch), last=True)
    return engine, batch


def test_exactly_the_named_modules_train() -> None:
    objective = objective_with({"projector": 1e-3})
    names = apply_trainable(objective, {"projector": 1e-3})
    assert names == ["projector.weight", "projector.bias"]
    assert objective.frozen == ("llm", "vision")


def test_frozen_weights_get_no_gradient_though_it_flows_through_them() -> None:
    objective = objective_with({"projector": 1e-3})
    apply_trainable(objective, {"projector": 1e-3})
    step_once(objective)
    assert all(parameter.grad is None for parameter in objective.llm.parameters())
    assert objective.projector.weight.grad.abs().sum() > 0


def test_frozen_language_model_saves_only_the_backward_of_inputs() -> None:
    """With the model frozen autograd holds no node that would compute a weight's gradient."""
    objective = objective_with({"projector": 1e-3})
    apply_trainable(objective, {"projector": 1e-3})
    batch = objective.collate(global_batch(0), seed=0)
    leaves, queue, seen = set(), [objective(batch).loss_sum.grad_fn], set()
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        queue += [parent for parent, _ in node.next_functions]
    assert leaves == {id(parameter) for parameter in objective.projector.parameters()}


def test_frozen_modules_stay_in_eval_mode_after_every_train_call() -> None:
    objective = objective_with({"llm": 1e-3})
    apply_trainable(objective, {"llm": 1e-3})
    statistics = objective.vision[2].running_mean.clone()
    objective.eval()
    objective.train()
    assert objective.llm.training
    assert not any(part.training for part in objective.vision.modules())
    engine, batch = step_once(objective)
    engine.step("main", 1.0)
    engine.evaluate(batch)
    assert not any(part.training for part in objective.vision.modules())
    assert torch.equal(objective.vision[2].running_mean, statistics)


def test_frozen_weights_do_not_move() -> None:
    objective = objective_with({"projector": 1e-1})
    apply_trainable(objective, {"projector": 1e-1})
    before = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
    engine, _ = step_once(objective)
    engine.step("main", 1.0)
    moved = {
        name
        for name, tensor in objective.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    assert moved == {"projector.weight", "projector.bias"}


def test_assertion_notices_a_switched_parameter_and_a_woken_module() -> None:
    objective = objective_with({"llm": 1e-3})
    names = apply_trainable(objective, {"llm": 1e-3})
    objective.projector.weight.requires_grad_(True)
    with raises_code(VitaError, "VT-FAIL-009", "projector.weight"):
        assert_trainable(objective, names)
    objective.projector.weight.requires_grad_(False)
    objective.vision[1].train()
    with raises_code(VitaError, "VT-FAIL-010"):
        assert_trainable(objective, names)


def test_unused_module_is_refused() -> None:
    objective = objective_with({"codec": 1e-3})
    with raises_code(RecipeError, "VT-RECIPE-062", "codec"):
        apply_trainable(objective, {"codec": 1e-3})


def test_groups_carry_each_modules_rate_and_spare_vectors_from_decay() -> None:
    rates = {"llm": 1e-3, "projector": 5e-3}
    objective = objective_with(rates)
    apply_trainable(objective, rates)
    groups = param_groups(objective, rates, 0.1)
    assert {(group["module"], group["lr"], group["weight_decay"]) for group in groups} == {
        ("llm", 1e-3, 0.1),
        ("llm", 1e-3, 0.0),
        ("projector", 5e-3, 0.1),
        ("projector", 5e-3, 0.0),
    }
    for group in groups:
        assert all(
            (parameter.ndim >= 2) == (group["weight_decay"] > 0) for parameter in group["params"]
        )
    grouped = sum(parameter.numel() for group in groups for parameter in group["params"])
    assert grouped == sum(
        parameter.numel() for parameter in objective.parameters() if parameter.requires_grad
    )


def test_empty_group_is_an_error() -> None:
    rates = {"llm": 1e-3, "projector": 1e-3}
    modules = toy_modules()
    modules["projector"].weight = modules["llm"].model["layers"][0].linear.weight
    modules["projector"].bias = modules["llm"].model["layers"][0].linear.bias
    objective = ToyObjective(toy_context(toy_recipe(trainable=rates), "1.2"), modules)
    apply_trainable(objective, rates)
    with raises_code(RecipeError, "VT-RECIPE-064"):
        param_groups(objective, rates, 0.0)


class Duel(ToyObjective):
    """Two phases with a parameter set each."""

    phases = ("discriminators", "main")

    def train_parameters(self, phase: str) -> Iterable[nn.Parameter]:
        return self.projector.parameters() if phase == "discriminators" else self.llm.parameters()


def test_a_phase_moves_its_own_parameters_only() -> None:
    rates = {"llm": 1e-2, "projector": 1e-2}
    objective = Duel(toy_context(toy_recipe(trainable=rates), "1.2"), toy_modules())
    names = apply_trainable(objective, rates)
    engine = build_engine(objective, EngineContext(objective.context.spec, ALONE, torch.float32))
    batch: ToyBatch = objective.collate(global_batch(0), seed=0)
    for phase, moving in (("discriminators", "projector"), ("main", "llm")):
        before = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
        engine.forward_backward(batch, phase, 1 / objective.weight(batch), last=True)
        engine.step(phase, 1.0)
        moved = {
            name.split(".")[0]
            for name, tensor in objective.state_dict().items()
            if not torch.equal(tensor, before[name])
        }
        assert moved == {moving}
    assert_trainable(objective, names)


def test_other_engines_refuse_phases() -> None:
    rates = {"llm": 1e-2, "projector": 1e-2}
    objective = Duel(
        toy_context(toy_recipe(trainable=rates, engine={"kind": "fsdp2"}), "1.2"), toy_modules()
    )
    apply_trainable(objective, rates)
    with raises_code(RecipeError, "VT-RECIPE-060"):
        build_engine(objective, EngineContext(objective.context.spec, ALONE, torch.float32))
