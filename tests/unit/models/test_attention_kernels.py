"""Attention by every kernel: what a setting means on a device, and that all of them are given the
same documents and give the same."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.helpers.errors import raises_code
from tests.helpers.omni_batches import document, pack
from tests.helpers.small_model import OMNI
from vita_train.errors import RecipeError
from vita_train.models.attention import kernels
from vita_train.models.attention.kernels import Documents, attend, document_of, kernel_for
from vita_train.models.build import build_modules
from vita_train.models.omni import Omni
from vita_train.models.speech.decoder import SpeechDecoder
from vita_train.recipe.model import ModelSpec

CPU, GPU = torch.device("cpu"), torch.device("cuda")
STARTS = torch.tensor([0, 3, 4, 9], dtype=torch.int32)


def row(heads: int, seed: int) -> Tensor:
    return torch.randn(9, heads, 8, generator=torch.Generator().manual_seed(seed))


def dense(query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> Tensor:
    """Scores of all positions, written out; others' documents and the future are hidden."""
    owner = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2, 2])
    seen = owner[:, None] == owner[None, :]
    seen = seen & torch.ones(9, 9, dtype=torch.bool).tril() if causal else seen
    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, 1).transpose(0, 1) for part in (key, value))
    scores = query.transpose(0, 1) @ key.transpose(1, 2) / 8**0.5
    return (scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value).transpose(0, 1)


def of_documents(given: list[dict[str, Any]]) -> Any:
    """A kernel of variable lengths that notes what it is given and computes it one by one."""

    def call(query: Tensor, key: Tensor, value: Tensor, *places: Any, **settings: Any) -> Tensor:
        starts, key_starts, longest, key_longest = places
        assert torch.equal(starts, key_starts)
        assert longest == key_longest
        causal = settings.get("causal", settings.get("window_size") == (-1, 0))
        given.append({"starts": starts, "longest": longest, "causal": causal, **settings})
        parts = []
        for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            q, k, v = (part[start:end].transpose(0, 1)[None] for part in (query, key, value))
            parts.append(F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True))
        return torch.cat(parts, 2)[0].transpose(0, 1)

    return call


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the kernels that need a GPU were given; stand-ins compute in their place."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", of_documents(calls))
    flash = ModuleType("flash_attn")
    flash.flash_attn_varlen_func = of_documents(calls)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", flash)
    return calls


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kernel", ["apart", "varlen", "flash", "flex"])
@torch.no_grad()
def test_every_kernel_keeps_documents_apart(
    kernel: Any, causal: bool, given: list[dict[str, Any]]
) -> None:
    query, key, value = row(4, 1), row(2, 2), row(2, 3)
    found = attend(kernel, query, key, value, Documents(STARTS, 5), causal=causal)
    torch.testing.assert_close(found, dense(query, key, value, causal=causal), atol=1e-5, rtol=1e-5)
    for call in given:
        assert call["starts"].tolist() == [0, 3, 4, 9]
        assert (call["longest"], call["causal"]) == (5, causal)


def test_positions_know_their_documents() -> None:
    assert document_of(STARTS, 9).tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 2]


def test_what_a_setting_means(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernel_for("auto", CPU, half=False) == "apart"
    assert kernel_for("sdpa", CPU, half=False) == "sdpa"
    assert kernel_for("auto", GPU, half=False) == "sdpa"
    for kind in ("varlen", "flash"):
        with raises_code(RecipeError, "VT-RECIPE-080", kind, "processor"):
            kernel_for(kind, CPU, half=True)
        with raises_code(RecipeError, "VT-RECIPE-080", kind, "float32"):
            kernel_for(kind, GPU, half=False)
    with raises_code(RecipeError, "VT-RECIPE-080", "flex", "gradients"):
        kernel_for("flex", CPU, half=False)
    assert kernel_for("flex", CPU, half=False, trains=False) == "flex"
    for there, expected in ((True, "flash"), (False, "varlen")):
        monkeypatch.setattr(kernels, "has_flash", lambda device, there=there: there)
        assert kernel_for("auto", GPU, half=True) == expected
    with raises_code(RecipeError, "VT-RECIPE-080", "flash-attn"):
        kernel_for("flash", GPU, half=True)


@pytest.mark.parametrize("kernel", ["varlen", "flash"])
@torch.no_grad()
def test_tower_and_language_model_give_kernels_what_they_mean(
    small_spec: ModelSpec,
    kernel: Any,
    given: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def omni_of(kind: str) -> Omni:
        llm = small_spec.llm.model_copy(update={"attention": kind})
        vision = small_spec.vision.model_copy(update={"attention": kind})
        spec = small_spec.model_copy(update={"llm": llm, "vision": vision})
        return Omni(build_modules(spec, OMNI, seed=3)).eval()

    given_documents = [
        document(1, 7, tiles=2),
        document(2, 9, frames=40),
        document(3, 5),
    ]
    batch = pack([given_documents[:2], given_documents[2:]])
    expected = omni_of("sdpa")(batch)
    # On a GPU that has them; the stand-ins run here.
    monkeypatch.setattr("vita_train.models.omni.kernel_for", lambda *_, **__: kernel)
    monkeypatch.setattr("vita_train.models.attention.packed.kernel_for", lambda *_, **__: kernel)
    found = omni_of(kernel)(batch)
    real = batch.document_ids > 0
    torch.testing.assert_close(found[real], expected[real], atol=1e-5, rtol=1e-5)
    tiles = [call for call in given if not call["causal"]]
    text = [call for call in given if call["causal"]]
    assert len(tiles) == small_spec.vision.num_layers
    assert len(text) == small_spec.llm.num_layers
    tokens = 1 + (32 // 8) ** 2  # the class token and the patches
    assert all(set(call["starts"].diff().tolist()) == {tokens} for call in tiles)
    assert all(call["starts"][-1] == batch.document_ids.numel() for call in text)


@torch.no_grad()
def test_the_speech_decoder_computes_the_same_by_flex(small_spec: ModelSpec) -> None:
    flex = small_spec.speech_decoder.model_copy(update={"attention": "flex"})
    losses = []
    for spec in (small_spec, small_spec.model_copy(update={"speech_decoder": flex})):
        torch.manual_seed(4)
        decoder = SpeechDecoder(spec).eval()
        text, codes = torch.randn(2, 5, 32), torch.randint(0, 1024, (2, 7))
        losses.append(
            float(decoder(text, torch.tensor([5, 2]), codes, torch.tensor([7, 3])).loss_sum)
        )
    assert abs(losses[0] - losses[1]) < 1e-3
