"""Each tower against another implementation of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.helpers.small_towers import TOWERS, model_of
from vita_train.models.activations import enable_checkpointing, transformer_blocks
from vita_train.models.build import cast_parameters
from vita_train.models.vision import VisionTower, build_vision, load_vision
from vita_train.models.vision.eva_clip import rotary_angles

#: Of the whole release: SigLIP so400m-patch14-384, CLIP ViT-L/14-336.
PUBLISHED = {"siglip": 428_225_600, "clip": 303_507_456}


def tower_of(name: str, **changes: Any) -> VisionTower:
    torch.manual_seed(5)
    return build_vision(model_of({**TOWERS[name], **changes}).vision).eval()


def lively(module: nn.Module) -> nn.Module:
    """Move every parameter, so that none of them is at a value that hides it."""
    torch.manual_seed(6)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return module.eval()


def tiles_for(tower: VisionTower, count: int = 2) -> Tensor:
    side = tower.spec.tile_size
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("name", TOWERS)
def test_features_have_the_size_the_specification_states(name: str) -> None:
    tower = tower_of(name)
    features = tower(tiles_for(tower))
    assert features.shape == (2, tower.spec.num_tokens, tower.spec.feature_size)
    assert tower.spec.num_tokens == tower.spec.grid_size**2
    assert [*transformer_blocks({"vision": tower})] == [*tower.blocks]


@pytest.mark.parametrize("name", TOWERS)
def test_pixels_are_normalised_as_the_tower_s_description_says(name: str) -> None:
    tower = tower_of(name)
    side = tower.spec.tile_size
    pixels = torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8)
    channels = [(pixels[:, c] / 255 - tower.spec.mean[c]) / tower.spec.std[c] for c in range(3)]
    torch.testing.assert_close(tower(pixels), tower(torch.stack(channels, 1)))


def test_internvit_equals_transformers(tmp_path: Path) -> None:
    from transformers import InternVLVisionConfig
    from transformers.models.internvl.modeling_internvl import InternVLModel, InternVLVisionModel

    shape = TOWERS["internvit"]
    reference = lively(
        InternVLVisionModel(
            InternVLVisionConfig(
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=24,
                attention_bias=True,
                image_size=shape["image_size"],
                patch_size=shape["patch_size"],
                attn_implementation="eager",
            )
        )
    )
    save_file(reference.state_dict(), tmp_path / "model.safetensors")
    tower = load_vision(model_of(shape).vision, str(tmp_path)).eval()
    tiles = tiles_for(tower)
    hidden = reference(pixel_values=tiles).last_hidden_state[:, 1:] * 0.5
    expected = InternVLModel.pixel_shuffle(None, hidden.reshape(2, 4, 4, 16)).flatten(1, 2)
    torch.testing.assert_close(tower(tiles), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layer", [-1, -2, -3])
@pytest.mark.parametrize("name", ["siglip", "clip"])
def test_siglip_and_clip_equal_transformers(name: str, layer: int, tmp_path: Path) -> None:
    from transformers import (
        CLIPVisionConfig,
        CLIPVisionModel,
        SiglipVisionConfig,
        SiglipVisionModel,
    )

    shape = {
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "image_size": TOWERS[name]["image_size"],
        "patch_size": 8,
        "attn_implementation": "eager",
    }
    reference = lively(
        SiglipVisionModel(SiglipVisionConfig(**shape))
        if name == "siglip"
        else CLIPVisionModel(CLIPVisionConfig(**shape))
    )
    # As in a whole model's release: a prefix, text beside it, the last block and what follows it.
    stored = {f"vision_model.{key}": value for key, value in reference.state_dict().items()}
    save_file(
        stored | {"text_model.final_layer_norm.bias": torch.zeros(3)},
        tmp_path / "model.safetensors",
    )
    tower = load_vision(
        model_of({**TOWERS[name], "feature_layer": layer}).vision, str(tmp_path)
    ).eval()
    tiles = tiles_for(tower)
    hidden = reference(pixel_values=tiles, output_hidden_states=True).hidden_states
    assert len(hidden) == 4
    expected = hidden[layer][:, 1:] if name == "clip" else hidden[layer]
    torch.testing.assert_close(tower(tiles), expected, atol=1e-5, rtol=1e-5)


def test_several_scales_equal_squares_seen_one_by_one() -> None:
    tower = lively(tower_of("siglip s2"))
    single = tower_of("siglip")
    single.load_state_dict(tower.state_dict())
    tiles = tiles_for(tower)
    features = tower(tiles)
    for number, tile in enumerate(tiles):
        scales = []
        for count, size in ((1, 26), (2, 52), (3, 78)):
            view = nn.functional.interpolate(
                tile[None], size=(size, size), mode="bicubic", align_corners=False
            )
            grid = torch.zeros(3 * count, 3 * count, 16)
            for row in range(count):
                for column in range(count):
                    square = view[:, :, 26 * row : 26 * (row + 1), 26 * column : 26 * (column + 1)]
                    grid[3 * row : 3 * row + 3, 3 * column : 3 * column + 3] = single(square)[
                        0
                    ].reshape(3, 3, 16)
            # The average of each cell of the first scale's grid.
            scales.append(
                torch.stack(
                    [
                        grid[count * y : count * (y + 1), count * x : count * (x + 1)].mean((0, 1))
                        for y in range(3)
                        for x in range(3)
                    ]
                )
            )
        torch.testing.assert_close(features[number], torch.cat(scales, -1), atol=1e-5, rtol=1e-5)


def plain_eva(tower: VisionTower, tiles: Tensor) -> Tensor:
    """EVA-02-CLIP from its tensors alone, one patch and one head at a time; rotation by complex
    numbers."""
    w = {name.removeprefix("model."): value for name, value in tower.state_dict().items()}
    grid, heads, width, trained = 5, 2, 8, 4

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * w[f"{name}.weight"]
            + w[f"{name}.bias"]
        )

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", torch.zeros(()))

    def turned(x: Tensor) -> Tensor:
        """(1 + patches, 8): two pairs turn with the row, two with the column, at rates 1 and
        1/100."""
        rows = [x[0]]
        for patch in range(grid * grid):
            places = (patch // grid * trained / grid, patch % grid * trained / grid)
            pairs = torch.view_as_complex(x[1 + patch].reshape(4, 2))
            angles = [places[0], places[0] / 100, places[1], places[1] / 100]
            rates = torch.tensor([complex(math.cos(a), math.sin(a)) for a in angles])
            rows.append(torch.view_as_real(pairs * rates).flatten())
        return torch.stack(rows)

    out = []
    for tile in tiles:
        patches = [
            (tile[:, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8] * w["patch_embed.proj.weight"]).sum(
                (1, 2, 3)
            )
            + w["patch_embed.proj.bias"]
            for y in range(grid)
            for x in range(grid)
        ]
        hidden = torch.stack([w["cls_token"][0, 0], *patches]) + w["pos_embed"][0]
        for block in ("blocks.0", "blocks.1"):
            normed = norm(hidden, f"{block}.norm1")
            query, key, value = (linear(normed, f"{block}.attn.{letter}_proj") for letter in "qkv")
            mixed = []
            for head in range(heads):
                part = slice(width * head, width * (head + 1))
                scores = turned(query[:, part]) @ turned(key[:, part]).T / width**0.5
                mixed.append(scores.softmax(-1) @ value[:, part])
            hidden = hidden + linear(
                norm(torch.cat(mixed, -1), f"{block}.attn.inner_attn_ln"), f"{block}.attn.proj"
            )
            normed = norm(hidden, f"{block}.norm2")
            gate = linear(normed, f"{block}.mlp.w1")
            inner = gate * torch.sigmoid(gate) * linear(normed, f"{block}.mlp.w2")
            hidden = hidden + linear(norm(inner, f"{block}.mlp.ffn_ln"), f"{block}.mlp.w3")
        out.append(hidden[1:])
    return torch.stack(out)


def test_eva_clip_equals_its_plain_derivation() -> None:
    tower = lively(tower_of("eva_clip"))
    tiles = tiles_for(tower)
    torch.testing.assert_close(tower(tiles), plain_eva(tower, tiles), atol=1e-5, rtol=1e-5)


def test_a_larger_grid_is_laid_over_the_trained_one() -> None:
    """336 px has 24 x 24 patches where 224 px had 16 x 16: every third turns as every second
    did."""
    small, large = (rotary_angles(grid, 16, 64).unflatten(0, (grid, grid)) for grid in (16, 24))
    torch.testing.assert_close(large[::3, ::3], small[::2, ::2])
    assert not large[0, 0].any()


@pytest.mark.parametrize("name", PUBLISHED)
def test_real_towers_are_their_releases_without_what_is_not_used(name: str) -> None:
    from transformers import (
        CLIPVisionConfig,
        CLIPVisionModel,
        SiglipVisionConfig,
        SiglipVisionModel,
    )

    spec = model_of({"kind": name}).vision
    shape = {
        "hidden_size": spec.hidden_size,
        "num_hidden_layers": spec.num_layers,
        "patch_size": 14,
        "num_attention_heads": 16,
        "intermediate_size": spec.intermediate_size,
        "image_size": spec.image_size,
    }
    with torch.device("meta"):
        release = (
            SiglipVisionModel(SiglipVisionConfig(**shape))
            if name == "siglip"
            else CLIPVisionModel(CLIPVisionConfig(**shape))
        )
        built = build_vision(spec).model
    assert sum(parameter.numel() for parameter in release.parameters()) == PUBLISHED[name]
    behind = (f"encoder.layers.{spec.num_layers - 1}.", "post_layernorm.", "head.")
    expected = {
        key: value.shape for key, value in release.named_parameters() if not key.startswith(behind)
    }
    assert {key: value.shape for key, value in built.named_parameters()} == expected


def test_the_real_eva_clip_has_the_size_of_its_release() -> None:
    """Counted from the shapes of EVA-02-CLIP L/14-336: 24 blocks, of which 23 are built."""
    width, inner = 1024, 2730
    attention = 4 * width * width + 3 * width + 2 * width  # keys have no bias; the norm inside
    perceptron = 3 * width * inner + 2 * inner + width + 2 * inner
    block = attention + perceptron + 4 * width
    embeddings = width + 577 * width + (3 * 14 * 14 + 1) * width
    with torch.device("meta"):
        built = build_vision(model_of({"kind": "eva_clip"}).vision)
    assert block == 12_602_024
    assert (
        sum(parameter.numel() for parameter in built.parameters())
        == 23 * block + embeddings
        == 291_041_560
    )


@pytest.mark.parametrize("name", TOWERS)
def test_stochastic_depth_acts_while_training_only(name: str) -> None:
    tower, steady = lively(tower_of(name, drop_path=0.9)), lively(tower_of(name))
    tiles = tiles_for(tower, 4)
    assert torch.equal(tower(tiles), steady(tiles))
    assert not torch.equal(tower.train()(tiles), steady(tiles))
    assert torch.equal(steady.train()(tiles), steady.eval()(tiles))


@pytest.mark.parametrize("name", TOWERS)
def test_half_precision_stays_near_full(name: str) -> None:
    tower = lively(tower_of(name))
    tiles = tiles_for(tower)
    full = tower(tiles)
    half = cast_parameters(nn.ModuleDict({"vision": tower}), torch.bfloat16)["vision"](tiles)
    assert half.dtype == torch.bfloat16
    assert (half.float() - full).norm() < 0.05 * full.norm()


@pytest.mark.parametrize("name", TOWERS)
def test_checkpointing_changes_no_gradient(name: str) -> None:
    gradients = []
    for checkpointed in (False, True):
        tower = lively(tower_of(name, drop_path=0.5)).train()
        if checkpointed:
            enable_checkpointing(nn.ModuleDict({"vision": tower}))
        torch.manual_seed(1)
        tower(tiles_for(tower)).square().sum().backward()
        gradients.append({key: parameter.grad for key, parameter in tower.named_parameters()})
    for key, gradient in gradients[0].items():
        assert gradient is not None, key
        torch.testing.assert_close(gradients[1][key], gradient)
