"""Projectors against what the reference says of each, written out; and every one of them in
training."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers.no_source import NO_SOURCE
from tests.helpers.small_towers import PROJECTORS, TOWERS, model_of
from tests.helpers.toy import toy_context
from vita_train.data.loading.batch import Batch
from vita_train.models.build import build_modules
from vita_train.models.vision.projector import build_projector, rounded_to_eight
from vita_train.recipe.model import ModelSpec
from vita_train.recipe.schema import Recipe
from vita_train.recipe.special_ids import IMAGE_ID
from vita_train.training.freeze import apply_trainable
from vita_train.training.objectives.next_token import NextTokenObjective
from vita_train.weights.load import load_modules
from vita_train.weights.save import save_modules

NAMES = ("llm", "vision", "projector")


def projector_of(kind: str, vision: str = "clip") -> tuple[nn.Module, dict[str, Tensor]]:
    torch.manual_seed(2)
    projector = build_projector(model_of(TOWERS[vision], kind))
    with torch.no_grad():
        for parameter in projector.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return projector, projector.state_dict()


def layer(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def averaged(x: Tensor, side: int) -> Tensor:
    """Each square of 2 x 2 tokens as their mean; what lies beyond an even grid is dropped."""
    grid = x.reshape(side, side, -1)
    even = range(0, side - 1, 2)
    return torch.stack([grid[y : y + 2, x : x + 2].mean((0, 1)) for y in even for x in even])


def plain_spp(kind: str, x: Tensor, w: dict[str, Tensor], side: int) -> Tensor:
    if kind == "spp_v1":
        return layer(averaged(layer(x, w, "linear_1"), side), w, "linear_2")
    if kind == "spp_v2":
        return averaged(layer(layer(x, w, "linear_1"), w, "linear_2"), side)
    return layer(layer(averaged(layer(x, w, "linear_0"), side), w, "linear_1"), w, "linear_2")


@pytest.mark.parametrize("kind", ["spp_v1", "spp_v2", "spp_v3"])
@pytest.mark.parametrize(("vision", "side"), [("clip", 4), ("siglip", 3)])
def test_spp_pools_where_its_version_says(kind: str, vision: str, side: int) -> None:
    projector, w = projector_of(kind, vision)
    features = torch.randn(2, side * side, 16)
    expected = torch.stack([plain_spp(kind, x, w, side) for x in features])
    torch.testing.assert_close(projector(features), expected, atol=1e-5, rtol=1e-5)


def test_merging_projectors_order_channels_their_own_way() -> None:
    features = torch.randn(2, 16, 16)
    for kind, order in (
        ("minigpt", lambda token, c: 16 * token + c),
        ("vanilla", lambda token, c: 4 * c + token),
    ):
        projector, w = projector_of(kind)
        for merged in range(4):
            long = torch.zeros(2, 64)
            for token in range(4):
                for c in range(16):
                    long[:, order(token, c)] = features[:, 4 * merged + token, c]
            torch.testing.assert_close(projector(features)[:, merged], layer(long, w, "linear"))


@pytest.mark.parametrize(("vision", "side"), [("clip", 4), ("siglip", 3)])
def test_downsampling_joins_squares_and_goes_down_the_columns(vision: str, side: int) -> None:
    projector, w = projector_of("mlp_downsample", vision)
    features = torch.randn(2, side * side, 16)
    half = (side + 1) // 2
    for place, found in enumerate(projector(features).unbind(1)):
        left, top = 2 * (place // half), 2 * (place % half)
        square = [(top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)]
        long = torch.cat(
            [
                features[:, y * side + x] if max(y, x) < side else torch.zeros(2, 16)
                for y, x in square
            ],
            dim=1,
        )
        centred = long - long.mean(1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(1, keepdim=True) + 1e-5).sqrt()
        normed = scaled * w["norm.weight"] + w["norm.bias"]
        expected = layer(F.gelu(layer(normed, w, "mlp.0")), w, "mlp.2")
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def plain_ldp(x: Tensor, w: dict[str, Tensor], side: int) -> Tensor:
    """One tile: perceptron, then two blocks, every output place computed by itself."""
    x = layer(F.gelu(layer(x, w, "mlp.0")), w, "mlp.2")
    for number, stride in ((0, 1), (1, 2)):
        name = f"blocks.{number}"
        grid = x.reshape(side, side, -1)
        padded = F.pad(grid, (0, 0, 1, 1, 1, 1))
        kernel = w[f"{name}.depthwise.weight"][:, 0].permute(1, 2, 0)
        places = range(0, side, stride)
        maps = torch.stack(
            [(padded[y : y + 3, c : c + 3] * kernel).sum((0, 1)) for y in places for c in places]
        )

        def norm(x: Tensor, part: str, name: str = name) -> Tensor:
            centred = x - x.mean(-1, keepdim=True)
            scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
            return scaled * w[f"{name}.{part}.weight"] + w[f"{name}.{part}.bias"]

        def pointwise(x: Tensor, part: str, name: str = name) -> Tensor:
            return x @ w[f"{name}.{part}.weight"][:, :, 0, 0].T + w.get(
                f"{name}.{part}.bias", torch.zeros(())
            )

        maps = norm(maps, "norm1")
        maps = maps * (maps + 3).clamp(0, 6) / 6
        excited = pointwise(pointwise(maps.mean(0), "excite.fc1").relu(), "excite.fc2")
        maps = norm(pointwise(maps * ((excited + 3).clamp(0, 6) / 6), "pointwise"), "norm2")
        x = x + maps if stride == 1 else maps
        side = len(places)
    return x


@pytest.mark.parametrize(("vision", "side"), [("clip", 4), ("siglip", 3)])
def test_ldp_equals_its_plain_derivation(vision: str, side: int) -> None:
    projector, w = projector_of("ldp", vision)
    features = torch.randn(2, side * side, 16)
    expected = torch.stack([plain_ldp(x, w, side) for x in features])
    torch.testing.assert_close(projector(features), expected, atol=1e-5, rtol=1e-5)


def test_squeezed_channels_are_mobilenet_s() -> None:
    assert [rounded_to_eight(n) for n in (1, 11, 12, 14, 19, 896)] == [8, 16, 16, 16, 24, 896]


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("linear", ["weight", "bias"]),
        ("mlp1x_gelu", ["0.weight", "0.bias"]),
        ("mlp3x_gelu", ["0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.bias"]),
    ],
)
def test_perceptrons_are_named_as_in_vita(kind: str, keys: list[str]) -> None:
    projector, w = projector_of(kind)
    assert list(w) == keys
    features = torch.randn(1, 16, 16)
    if kind == "mlp3x_gelu":
        expected = layer(F.gelu(layer(F.gelu(layer(features, w, "0")), w, "2")), w, "4")
        torch.testing.assert_close(projector(features), expected)


def combinations() -> list[tuple[str, str]]:
    """Every tower with the usual projector, and every projector with a tower whose tokens it can
    take."""
    return (
        [(vision, "mlp2x_gelu") for vision in TOWERS]
        + [("clip", kind) for kind in PROJECTORS]
        + [("siglip", "ldp"), ("siglip", "mlp_downsample")]
    )


def batch_for(spec: ModelSpec) -> Batch:
    """One row: a tile where the recipe says how many positions it takes, then text."""
    generator = torch.Generator().manual_seed(4)
    text = torch.randint(0, 97, (8,), generator=generator)
    ids = torch.cat((torch.full((spec.tokens_per_tile,), IMAGE_ID), text))[None]
    side = spec.vision.tile_size
    tiles = torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8, generator=generator)
    return Batch(
        ids,
        ids.clone().masked_fill(ids < 0, -100),
        torch.arange(ids.shape[1])[None],
        torch.ones_like(ids),
        tiles,
        None,
        None,
        ["toy/train/0"],
        frozenset({"image"}),
    )


class PictureObjective(NextTokenObjective):
    """The objective with the modules of images, without a corpus that asks for them."""

    @classmethod
    def modules_used(cls, spec: Any, corpus: Any) -> tuple[str, ...]:
        return NAMES


def objective_of(
    spec: ModelSpec, modules: nn.ModuleDict, trainable: dict[str, float]
) -> NextTokenObjective:
    stage = {"objective": "next_token", "data": {"toy": 1.0}, "steps": 1, "trainable": trainable}
    recipe = Recipe.model_validate(
        {"name": "toy", "data": NO_SOURCE, "model": spec.model_dump(), "stages": {"1.2": stage}}
    )
    context = toy_context(recipe, "1.2")
    corpus: Any = SimpleNamespace(tokenizer=SimpleNamespace(pad_token_id=0))
    object.__setattr__(context, "corpus", corpus)
    objective = PictureObjective(context, modules)
    apply_trainable(objective, trainable)
    return objective


@pytest.mark.parametrize(("vision", "projector"), combinations())
def test_every_tower_and_projector_trains_freezes_and_is_kept(
    vision: str, projector: str, tmp_path: Path
) -> None:
    spec = model_of(TOWERS[vision], projector)
    modules = build_modules(spec, NAMES, seed=1)
    batch = batch_for(spec)
    before = {name: parameter.clone() for name, parameter in modules.named_parameters()}

    objective = objective_of(spec, modules, {"projector": 1e-3})  # stage 1.1: the tower is frozen
    objective(batch).loss_sum.backward()
    assert all(parameter.grad is None for parameter in objective.vision.parameters())
    assert not any(part.training for part in objective.vision.modules())
    assert all(parameter.grad is not None for parameter in objective.projector.parameters())

    objective = objective_of(spec, modules, {"vision": 1e-3, "projector": 1e-3})
    optimizer = torch.optim.AdamW(
        list(objective.vision.parameters()) + list(objective.projector.parameters()), lr=1e-2
    )
    loss = objective(batch).loss_sum
    loss.backward()
    assert all(
        parameter.grad is not None
        for module in (objective.vision, objective.projector)
        for parameter in module.parameters()
    )  # none is left out of the graph, on which engines rely
    optimizer.step()
    assert all(
        torch.equal(before[name], parameter) == name.startswith("llm")
        for name, parameter in modules.named_parameters()
    )
    assert objective(batch).loss_sum < loss

    files = save_modules(modules, tmp_path)
    other = build_modules(spec, NAMES, seed=2)
    load_modules(other, files)
    assert torch.equal(
        objective_of(spec, other, {"projector": 1e-3}).eval()(batch).loss_sum,
        objective_of(spec, modules, {"projector": 1e-3}).eval()(batch).loss_sum,
    )


def test_an_identity_passes_features_where_widths_agree(tmp_path: Path) -> None:
    spec = model_of(TOWERS["clip"], "identity", width=16)
    modules = build_modules(spec, NAMES, seed=1)
    features = torch.randn(1, 16, 16)
    assert modules["projector"](features) is features
    objective = objective_of(spec, modules, {"vision": 1e-3})
    objective(batch_for(spec)).loss_sum.backward()
    assert all(parameter.grad is not None for parameter in objective.vision.parameters())
    load_modules(build_modules(spec, NAMES, seed=2), save_modules(modules, tmp_path))
