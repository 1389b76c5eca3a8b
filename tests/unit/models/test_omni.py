import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.helpers.errors import raises_code
from tests.helpers.omni_batches import by_kernel, document, pack, plain_varlen
from vita_train.errors import DataError
from vita_train.models.activations import (
    choose_policies,
    enable_checkpointing,
    llm_bytes,
)
from vita_train.models.build import build_modules
from vita_train.models.language.loss import chunked_cross_entropy
from vita_train.models.omni import Omni, document_starts
from vita_train.recipe.model import ModelSpec, MoeSpec
from vita_train.recipe.special_ids import AUDIO_ID, IMAGE_ID

ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
OMNI = ("llm", "vision", "projector", "audio_encoder", "audio_adapter")


def documents() -> list:
    return [
        document(1, 12, tiles=2),
        document(2, 9),
        document(3, 15, frames=60),
        document(4, 10, tiles=1, frames=33),
    ]


def test_packed_documents_never_see_each_other(omni: Omni) -> None:
    docs = documents()
    hidden = omni(pack([docs[:2], docs[2:]]))
    alone = [omni(doc)[0] for doc in docs]
    for row, pair in zip(hidden, (alone[:2], alone[2:]), strict=True):
        expected = torch.cat(pair)
        assert (row[: len(expected)] - expected).abs().max() <= 1e-5


def test_loss_and_gradients_do_not_depend_on_packing_or_padding(omni: Omni) -> None:
    docs = documents()

    def gradients(batches: list) -> tuple[float, int, dict]:
        omni.zero_grad()
        total, count = 0.0, 0
        for batch in batches:
            loss = chunked_cross_entropy(omni(batch), omni.head_weight, batch.labels)
            loss.loss_sum.backward()
            total, count = total + loss.loss_sum.item(), count + loss.supervised
        return (
            total,
            count,
            {name: p.grad.clone() for name, p in omni.named_parameters() if p.grad is not None},
        )

    separate = gradients(docs)
    for rows in ([docs], [docs[:3], docs[3:]]):
        packed = gradients([pack(rows)])
        assert packed[0] == pytest.approx(separate[0], abs=1e-4)
        assert packed[1] == separate[1]
        for name, expected in separate[2].items():
            torch.testing.assert_close(packed[2][name], expected, atol=2e-5, rtol=1e-4)


def test_features_stand_at_their_placeholders_in_reading_order(omni: Omni) -> None:
    batch = pack([documents()])
    embeds = omni.embed(batch)
    ids = batch.input_ids
    assert torch.equal(embeds[ids == IMAGE_ID], omni.image_features(batch.tiles))
    assert torch.equal(
        embeds[ids == AUDIO_ID], omni.audio_features(batch.fbank, batch.fbank_lengths)
    )
    assert torch.equal(embeds[ids >= 0], omni.llm.get_input_embeddings()(ids[ids >= 0]))


@pytest.mark.parametrize(("kind", "tiles"), [("image", 3), ("image", 0), ("audio", 0)])
def test_a15_a_wrong_number_of_features_names_both_numbers_and_the_samples(
    omni: Omni, kind: str, tiles: int
) -> None:
    batch = document(4, 10, tiles=2, frames=33)
    if kind == "image":
        batch.tiles = torch.zeros(tiles, 3, 32, 32) if tiles else None
    else:
        batch.fbank = None
        batch.modalities = frozenset({"image"})
    counts = ("8 image", f"{4 * tiles} image") if kind == "image" else ("4 audio", "0 audio")
    with raises_code(DataError, "VT-DATA-033", "sample-4", *counts):
        omni(batch)


def test_a_rank_without_media_uses_every_module_that_others_use(omni: Omni) -> None:
    calls = {"forward": 0, "backward": 0}
    for name in ("vision", "projector", "audio_encoder", "audio_adapter"):
        getattr(omni, name).register_forward_hook(
            lambda *_: calls.update(forward=calls["forward"] + 1)
        )
    text = document(2, 9)
    plain = omni(text)
    assert calls["forward"] == 0
    text.modalities = frozenset({"image", "audio"})
    hidden = omni(text)
    assert calls["forward"] == 4
    assert torch.equal(hidden, plain)
    hidden.sum().backward()
    for name in ("vision", "projector", "audio_encoder", "audio_adapter"):
        grads = [p.grad for n, p in getattr(omni, name).named_parameters() if "layernorm" not in n]
        assert all(grad is not None and not grad.any() for grad in grads), name


def test_gradients_flow_through_a_frozen_language_model_only_to_what_trains(omni: Omni) -> None:
    omni.requires_grad_(False)
    omni.audio_adapter.requires_grad_(True)
    batch = pack([documents()])
    omni(batch).square().sum().backward()
    assert all(
        p.grad is None
        for name, p in omni.named_parameters()
        if not name.startswith("audio_adapter")
    )
    assert all(p.grad.abs().sum() > 0 for p in omni.audio_adapter.parameters())


def test_frozen_encoders_keep_no_activations(omni: Omni) -> None:
    omni.vision.requires_grad_(False)
    seen = []
    omni.vision.register_forward_hook(lambda _m, _i, out: seen.append(out.requires_grad))
    omni(document(1, 12, tiles=2)).sum().backward()
    assert seen == [False]
    assert omni.projector[0].weight.grad is not None


class Kernels(TorchDispatchMode):
    """Counts calls of attention."""

    calls = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls += function is ATTENTION
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("policy", ["full", "selective", 1])
def test_checkpointing_changes_nothing_but_memory(
    omni: Omni, modules: nn.ModuleDict, policy: str | int
) -> None:
    batch = pack([documents()])
    batch.tiles.requires_grad_(True)

    def gradients() -> tuple[list, int]:
        omni.zero_grad()
        with Kernels() as kernels:
            omni(batch).square().sum().backward()
        return [p.grad.clone() for p in omni.parameters() if p.grad is not None], kernels.calls

    before, once = gradients()
    passes = []
    enable_checkpointing(modules, dict.fromkeys(modules, policy))
    omni.llm.model.layers[0].self_attn.register_forward_hook(lambda *_: passes.append(1))
    after, calls = gradients()
    assert len(passes) == 2
    assert calls == (2 * once if policy == "full" else once) > 0
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("trained", [{"projector"}, {"llm", "projector", "vision"}])
def test_auto_computes_again_what_would_not_fit(small_spec: ModelSpec, trained: set[str]) -> None:
    needed = llm_bytes(small_spec.llm, 100, trains="llm" in trained)
    towers = {name: "selective" for name in trained & {"vision"}}
    assert choose_policies(small_spec, trained, 100, needed) == towers
    assert choose_policies(small_spec, trained, 100, needed - 1) == {**towers, "llm": 1}
    assert choose_policies(small_spec, trained, 100, 0) == {**towers, "llm": "selective"}
    assert choose_policies(small_spec, trained, 100, float("inf")) == {}


def test_auto_does_not_foresee_what_trained_experts_keep(small_spec: ModelSpec) -> None:
    experts = small_spec.llm.model_copy(update={"moe": MoeSpec()})
    spec = small_spec.model_copy(update={"llm": experts})
    assert choose_policies(spec, {"llm"}, 100, 1e12) == {"llm": "selective"}
    assert choose_policies(spec, {"projector"}, 100, 1e12) == {}


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("trains", [False, True])
def test_kept_bytes_of_a_language_model_are_those_measured(
    small_spec: ModelSpec, trains: bool, width: int
) -> None:
    llm = small_spec.llm.model_copy(update={"hidden_size": 128, "intermediate_size": 512})
    omni = Omni(build_modules(small_spec.model_copy(update={"llm": llm}), ("llm",), seed=3))
    omni.requires_grad_(trains)
    if width == 2 and not trains:  # as engines store what is frozen
        omni.to(torch.bfloat16)
    weights = {p.untyped_storage().data_ptr() for p in omni.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = document(2, 256)
    embeds = omni.embed(batch).detach().requires_grad_(True)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=width == 2),
    ):
        hidden = omni.decode_flat(embeds, batch, "apart").hidden
    assert hidden.requires_grad
    found = sum(kept.values())
    if width == 2 and trains:  # autocast's copies of the matrices
        layers = omni.llm.model.layers
        found -= sum(width * p.numel() for p in layers.parameters() if p.ndim == 2)
    assert found == pytest.approx(llm_bytes(llm, 256, trains=trains, width=width), rel=0.1)


def test_document_starts_mark_every_document_and_padding() -> None:
    ids = torch.tensor([[1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 0, 0]])
    assert document_starts(ids).tolist() == [0, 2, 5, 6, 10, 12]


def test_documents_in_one_long_row_give_what_the_mask_gives(
    small_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", plain_varlen)
    batch = pack([documents()[:2], documents()[2:]])
    real, found = batch.document_ids > 0, []
    for attention in ("auto", "sdpa"):
        llm = small_spec.llm.model_copy(update={"attention": attention})
        omni = Omni(build_modules(small_spec.model_copy(update={"llm": llm}), OMNI, seed=3)).eval()
        hidden = omni(batch)[real]
        hidden.square().sum().backward()
        found.append(
            (hidden.detach(), {name: weight.grad for name, weight in omni.llm.named_parameters()})
        )
        if attention == "auto":
            torch.testing.assert_close(
                by_kernel(omni, batch).hidden[real], hidden, atol=1e-5, rtol=1e-5
            )
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)
