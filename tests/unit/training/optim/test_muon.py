"""Muon's update is an orthogonal matrix of AdamW's size, and everything else stays AdamW."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from vita_train.training.optim.muon import MuonAdamW, matrix_parameters, orthogonalize


@pytest.mark.parametrize("shape", [(16, 16), (8, 24), (24, 8)])
def test_singular_values_are_brought_near_one(shape: tuple[int, int]) -> None:
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    singular = torch.linalg.svdvals(orthogonalize(matrices))
    assert singular.min() > 0.5
    assert singular.max() < 1.3


def test_the_direction_is_that_of_the_polar_factor() -> None:
    matrix = torch.randn(12, 20, generator=torch.Generator().manual_seed(1))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert (
        torch.nn.functional.cosine_similarity(
            (u @ v).flatten(), orthogonalize(matrix[None])[0].flatten(), 0
        )
        > 0.95
    )


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict(
        {"body": nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 8)), "head": nn.Linear(8, 3)}
    )


def test_only_hidden_matrices_leave_adamw() -> None:
    model, twin = _model(), _model()
    assert [id(p) for p in matrix_parameters(model)] == [id(model["body"][1].weight)]
    groups = [
        {"params": list(m.parameters()), "lr": 0.01, "weight_decay": 0.0} for m in (model, twin)
    ]
    mixed = MuonAdamW(groups[:1], matrix_parameters(model), (0.9, 0.95), 1e-8)
    plain = torch.optim.AdamW(groups[1:], betas=(0.9, 0.95), eps=1e-8)
    before = model["body"][1].weight.clone()
    for net, optimizer in ((model, mixed), (twin, plain)):
        net["head"](net["body"](torch.arange(10))).pow(2).sum().backward()
        optimizer.step()
    for (name, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        if name != "body.1.weight":
            torch.testing.assert_close(ours, theirs)
    update = (model["body"][1].weight - before) / (0.01 * 0.2 * 8**0.5)
    assert torch.linalg.svdvals(update).max() < 1.3


def test_state_survives_a_round_trip() -> None:
    model = _model()

    def build(net: nn.Module) -> MuonAdamW:
        return MuonAdamW(
            [{"params": list(net.parameters()), "lr": 0.01, "weight_decay": 0.0}],
            matrix_parameters(net),
            (0.9, 0.95),
            1e-8,
        )

    def advance(net: nn.Module, optimizer: MuonAdamW) -> None:
        optimizer.zero_grad()
        net["head"](net["body"](torch.arange(10))).pow(2).sum().backward()
        optimizer.step()

    optimizer = build(model)
    advance(model, optimizer)
    twin = copy.deepcopy(model)
    restored = build(twin)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    advance(model, optimizer)
    advance(twin, restored)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
