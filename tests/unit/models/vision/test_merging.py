"""Token merging against its table of counts and a plain derivation of the published method."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vita_train.models.activations import enable_checkpointing
from vita_train.models.vision import build_vision
from vita_train.models.vision.merging import Merged, match, merge
from vita_train.models.vision.tower import VisionTower
from vita_train.recipe.merging import MergeSpec, kept_tokens, removals
from vita_train.recipe.towers.clip import ClipSpec
from vita_train.recipe.towers.siglip import SiglipSpec

#: keep, merged in each block, left of 729 after 31 of 32 blocks (AuroraCap's computation).
PUBLISHED = [
    (1.0, 0, 729), (0.8, 4, 605), (0.6, 9, 450), (0.5, 11, 388), (0.4, 13, 326), (0.3, 15, 264),
    (0.2, 18, 171), (0.1, 20, 109), (0.05, 21, 78), (0.01, 22, 47),
]  # fmt: skip


@pytest.mark.parametrize(("keep", "each", "left"), PUBLISHED)
def test_a13_the_published_schedule_leaves_the_published_counts(
    keep: float, each: int, left: int
) -> None:
    counts = removals(MergeSpec(keep=keep, schedule="published"), 729, 31, 32)
    assert counts == (each,) * 31
    assert kept_tokens(729, counts) == left


@pytest.mark.parametrize("keep", [1.0, 0.8, 0.5, 0.2, 0.1, 0.05, 0.037])
def test_a13_the_exact_schedule_leaves_what_keep_says(keep: float) -> None:
    counts = removals(MergeSpec(keep=keep), 729, 31, 32)
    assert kept_tokens(729, counts) == round(729 * keep)
    assert max(counts) - min(counts) <= 1


def test_a13_what_blocks_cannot_reach_is_refused() -> None:
    with pytest.raises(ValueError, match="2 blocks"):
        removals(MergeSpec(keep=0.1), 729, 2, 3)


def tower(kind: str = "clip", **merge: Any) -> VisionTower:
    sizes = {
        "image_size": 56, "patch_size": 14, "hidden_size": 32, "num_layers": 5, "num_heads": 2,
        "intermediate_size": 48,
    }  # fmt: skip
    if merge:
        sizes["merge"] = {"keep": 0.5, **merge}
    torch.manual_seed(0)
    return build_vision((ClipSpec if kind == "clip" else SiglipSpec)(**sizes)).eval()


TILES = torch.randn(3, 3, 56, 56, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a13_without_merging_the_tower_is_the_plain_one(kind: str) -> None:
    plain, able = tower(kind), tower(kind, keep=0.5)
    able.load_state_dict(plain.state_dict())
    assert torch.equal(able(TILES), plain(TILES))
    assert list(able.state_dict()) == list(plain.state_dict())
    nothing = able.merged(TILES, (0,) * plain.spec.num_blocks)
    torch.testing.assert_close(nothing.hidden, plain(TILES), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("attention", ["off", "key"])
def test_a13_every_patch_is_in_one_token(kind: str, attention: str) -> None:
    made = tower(kind, keep=0.3, attention=attention)
    found = made.merged(TILES, made.spec.removals)
    assert found.hidden.shape == (3, made.spec.merged_tokens, 32)
    assert made.spec.merged_tokens == round(0.3 * 16)
    assert found.sizes.sum(1).flatten().tolist() == [16, 16, 16]


@pytest.mark.parametrize("attention", ["off", "key"])
def test_a13_the_tower_computes_the_published_method(attention: str) -> None:
    made = tower(keep=0.4, attention=attention)
    found = made.merged(TILES, made.spec.removals)
    for image in range(3):
        expected, sizes = plain_merging(made, TILES[image], attention == "key")
        torch.testing.assert_close(found.hidden[image], expected, atol=1e-5, rtol=1e-4)
        assert found.sizes[image].flatten().tolist() == sizes


@torch.no_grad()
def plain_merging(made: VisionTower, pixels: Tensor, proportional: bool) -> tuple[Tensor, list]:
    """One image, token by token, as the method is written down."""
    model: Any = made.model
    tokens = list(model.pre_layrnorm(model.embeddings(pixels[None]))[0])
    sizes = [1] * len(tokens)
    for block, removed in zip(made.blocks, made.spec.removals, strict=True):
        layer: Any = block
        normed = layer.layer_norm1(torch.stack(tokens))
        heads, width = layer.self_attn.num_heads, 32 // layer.self_attn.num_heads
        query, key, value = (
            getattr(layer.self_attn, name)(normed).view(-1, heads, width)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        mixed = torch.zeros(len(tokens), heads, width)
        for head in range(heads):
            scores = query[:, head] @ key[:, head].T / math.sqrt(width)
            if proportional:
                scores = scores + torch.tensor([math.log(size) for size in sizes])
            mixed[:, head] = scores.softmax(-1) @ value[:, head]
        attended = layer.self_attn.out_proj(mixed.flatten(1))
        tokens = [token + more for token, more in zip(tokens, attended, strict=True)]
        unit = [one / one.norm() for one in key.mean(1)]
        first, second = range(0, len(tokens), 2), range(1, len(tokens), 2)
        pairs = []
        for own in first:
            if own == 0:
                continue  # the class token
            likeness, other = max((float(unit[own] @ unit[place]), -place) for place in second)
            pairs.append((likeness, own, -other))
        pairs.sort(reverse=True)
        chosen = pairs[: min(removed, (len(tokens) - 1) // 2)]
        sums = {place: tokens[place] * sizes[place] for place in second}
        for _, own, place in chosen:
            sums[place] = sums[place] + tokens[own] * sizes[own]
        grown = {place: sizes[place] for place in second}
        for _, own, place in chosen:
            grown[place] += sizes[own]
        gone = {own for _, own, _ in chosen}
        stay = [own for own in first if own not in gone]
        tokens = [tokens[own] for own in stay] + [sums[place] / grown[place] for place in second]
        sizes = [sizes[own] for own in stay] + [grown[place] for place in second]
        together = torch.stack(tokens)
        tokens = list(together + layer.mlp(layer.layer_norm2(together)))
    return torch.stack(tokens[1:]).detach(), sizes[1:]


def test_a13_the_class_token_is_left_as_it_is_and_equal_tokens_go_first() -> None:
    hidden = torch.randn(1, 9, 4, generator=torch.Generator().manual_seed(2))
    hidden[0, 4] = hidden[0, 7]
    hidden[0, 1] = hidden[0, 0]  # the likest of all, but it is the class token's
    tokens = Merged(hidden, torch.ones(1, 9, 1))
    found = merge(tokens, match(hidden, 1, class_token=True))
    assert torch.equal(found.hidden[0, 0], hidden[0, 0])
    assert sorted(found.sizes.flatten().tolist()) == [1.0] * 7 + [2.0]
    double = found.hidden[0, int(found.sizes.flatten().argmax())]
    torch.testing.assert_close(double, hidden[0, 7])
    most = merge(tokens, match(hidden, 100, class_token=True))
    assert most.hidden.shape[1] == 5, "half of the patches at most"


def test_a13_sizes_count_along_the_keys_and_not_along_the_queries() -> None:
    made = tower(keep=0.4, attention="key")
    off = tower(keep=0.4, attention="off")
    counts = made.spec.removals
    assert not torch.allclose(made.merged(TILES, counts).hidden, off.merged(TILES, counts).hidden)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a13_gradients_reach_every_weight(checkpointed: bool) -> None:
    made = tower(keep=0.4).train()
    if checkpointed:
        enable_checkpointing(nn.ModuleDict({"vision": made}))
    made.merged(TILES, made.spec.removals).hidden.square().sum().backward()
    without = [name for name, weight in made.named_parameters() if weight.grad is None]
    assert without == []
    positions: Any = made.model.embeddings.position_embedding.weight
    assert float(positions.grad.abs().sum(-1).min()) > 0


def test_a_merge_that_is_not_possible_is_refused_by_the_settings() -> None:
    with pytest.raises(ValueError, match="siglip"):
        SiglipSpec(scales=(384, 768), merge=MergeSpec(keep=0.5))
