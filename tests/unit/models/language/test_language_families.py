"""Every family of language models: transformers' own numbers, documents kept apart, sources
checked, replies ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers.errors import raises_code
from tests.helpers.family_tokenizers import FAMILIES, family_tokenizer
from tests.helpers.omni_batches import by_kernel, document, pack, plain_varlen
from vita_train.data.loading.batch import Batch
from vita_train.data.prepare.tokenizer import control_id
from vita_train.data.templates import load_template
from vita_train.errors import CheckpointError
from vita_train.inference.generate import generate, generate_ids
from vita_train.models.activations import enable_checkpointing
from vita_train.models.build import build_modules
from vita_train.models.inputs import Prompt
from vita_train.models.language.decoder import balance_loss, build_llm, load_llm, read_share
from vita_train.models.language.loss import chunked_cross_entropy
from vita_train.models.omni import Omni
from vita_train.recipe.family import FAMILIES as PUBLISHED
from vita_train.recipe.model import LlmSpec, ModelSpec

TYPES = {
    "qwen2p5_instruct": "Qwen2",
    "qwen2p5_fo_instruct": "Qwen2",
    "nemo": "Mistral",
    "mixtral-8x7b": "Mixtral",
    "llama3-8b": "Llama",
    "vicuna-7b-16k": "Llama",
    "vicuna-7b": "Llama",
    "sheared-llama-2.7b": "Llama",
}
MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}


def spec_of(small: ModelSpec, family: Any, **changes: Any) -> ModelSpec:
    """The small model with another language model; Nemo's heads are wider than their share, as the
    published ones."""
    own: dict[str, Any] = {"nemo": {"head_dim": 12}, "mixtral-8x7b": {"moe": MOE}}.get(family, {})
    llm = LlmSpec.model_validate({**small.llm.model_dump(), "family": family, **own, **changes})
    return small.model_copy(update={"llm": llm})


def omni_of(
    small: ModelSpec, family: str, names: tuple[str, ...] = ("llm",), **changes: Any
) -> Omni:
    """A model with weights large enough that it matters what is seen."""
    modules = build_modules(spec_of(small, family, **changes), names, seed=3).eval()
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in modules["llm"].parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
    return Omni(modules).eval()


def documents() -> list[Batch]:
    return [document(seed, length) for seed, length in ((1, 12), (2, 9), (3, 17))]


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_and_logits_are_those_of_transformers_plain_forward(
    small_spec: ModelSpec, family: str
) -> None:
    omni = omni_of(small_spec, family)
    assert type(omni.llm).__name__ == f"{TYPES[family]}ForCausalLM"
    ids = torch.stack([document(seed, 40).input_ids[0] for seed in (1, 2)])
    batch = pack([[document(1, 40)], [document(2, 40)]])
    plain = omni.llm(input_ids=ids, output_hidden_states=True)
    hidden = omni(batch)
    assert (hidden - plain.hidden_states[-1]).abs().max() <= 1e-5
    logits = nn.functional.linear(hidden, omni.head_weight)
    assert (logits - plain.logits).abs().max() <= 1e-5
    assert plain.logits.std() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_padded_and_single_rows_have_the_same_loss(
    small_spec: ModelSpec, family: str
) -> None:
    omni, docs = omni_of(small_spec, family), documents()

    def losses(batches: list[Batch]) -> Tensor:
        sums = [
            chunked_cross_entropy(omni(batch), omni.head_weight, batch.labels) for batch in batches
        ]
        return torch.stack([loss.loss_sum for loss in sums]).sum() / sum(
            loss.supervised for loss in sums
        )

    single = losses(docs)
    for rows in ([docs], [[doc] for doc in docs], [docs[:2], docs[2:]], [docs[::-1]]):
        assert abs(losses([pack(rows)]) - single) <= 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_what_other_documents_say_changes_nothing_at_all(
    small_spec: ModelSpec, family: str
) -> None:
    """In masked attention, and by gradients: no input of one document reaches a hidden state of
    another."""
    omni = omni_of(small_spec, family)
    batch = pack([documents()])
    embeds = omni.embed(batch).detach().requires_grad_(True)
    omni.embed = lambda _: embeds  # type: ignore[method-assign]
    omni(batch)[batch.document_ids == 2].square().sum().backward()
    reached = embeds.grad.abs().sum(-1) > 0
    assert torch.equal(reached, batch.document_ids == 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_without_a_mask_keeps_documents_apart_as_well(
    small_spec: ModelSpec, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", plain_varlen)
    omni = omni_of(small_spec, family)
    batch = pack([documents()[:2], documents()[2:]])
    masked = omni_of(small_spec, family, attention="sdpa").read(batch, routers=True)
    real = batch.document_ids > 0
    for flat in (omni.read(batch, routers=True), by_kernel(omni, batch)):
        torch.testing.assert_close(flat.hidden[real], masked.hidden[real], atol=1e-5, rtol=1e-5)
        assert len(flat.routers) == len(masked.routers) == (2 if family == "mixtral-8x7b" else 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_has_a_sliding_window(small_spec: ModelSpec, family: str) -> None:
    llm = omni_of(small_spec, family).llm
    assert getattr(llm.config, "sliding_window", None) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_source_is_read_and_checked_by_its_type(
    small_spec: ModelSpec, family: str, tmp_path: Path
) -> None:
    spec = spec_of(small_spec, family)
    saved = build_modules(spec, ["llm"], seed=9)["llm"]
    # The name of a directory says nothing about what is in it.
    source = tmp_path / "qwen2-mixtral-nemo-llama"
    saved.save_pretrained(source)
    read = build_modules(spec_of(small_spec, family, source=str(source)), ["llm"])["llm"]
    for name, tensor in saved.state_dict().items():
        assert torch.equal(read.state_dict()[name], tensor), name
    with raises_code(CheckpointError, "VT-WEIGHTS-001", "num_hidden_layers"):
        build_modules(spec_of(small_spec, family, source=str(source), num_layers=1), ["llm"])
    with raises_code(CheckpointError, "VT-WEIGHTS-001", "rope_parameters"):
        build_modules(spec_of(small_spec, family, source=str(source), rope_theta=5e5), ["llm"])
    other = "nemo" if TYPES[family] == "Llama" else "llama3-8b"
    with raises_code(CheckpointError, "VT-WEIGHTS-005", "config.json", "model.llm.family"):
        build_modules(spec_of(small_spec, other, source=str(source)), ["llm"])


def test_a_source_with_a_sliding_window_is_refused_where_it_would_matter(
    small_spec: ModelSpec, tmp_path: Path
) -> None:
    saved = build_llm(spec_of(small_spec, "nemo").llm)
    saved.config.sliding_window = 100
    saved.save_pretrained(tmp_path)
    facts = ("100 positions", "model.llm.max_positions to at most 100")
    with raises_code(CheckpointError, "VT-WEIGHTS-002", *facts):
        build_modules(spec_of(small_spec, "nemo", source=str(tmp_path)), ["llm"])
    build_modules(spec_of(small_spec, "nemo", source=str(tmp_path), max_positions=100), ["llm"])


@pytest.mark.parametrize("family", FAMILIES)
def test_replies_end_at_the_family_s_stop_tokens(small_spec: ModelSpec, family: Any) -> None:
    tokenizer, template = family_tokenizer(family), load_template(PUBLISHED[family].template)
    omni = omni_of(small_spec, family, vocab_size=len(tokenizer) + 5)
    prompt = Prompt(torch.tensor(tokenizer("hello there").input_ids))
    free = [ids[0] for ids in generate_ids(omni, [prompt], stop_ids=(), max_new_tokens=12)]
    assert len(free) == 12
    for name in template.stop_tokens:
        stop = control_id(tokenizer, name)
        weight = omni.head_weight.detach().clone()
        # The model's fourth token becomes the stop token, wherever it was the most likely one.
        swapped = weight.clone()
        swapped[stop], swapped[free[3]] = weight[free[3]], weight[stop]
        omni.llm.lm_head.weight.data.copy_(swapped)
        stops = {control_id(tokenizer, token) for token in template.stop_tokens}
        reply = [ids[0] for ids in generate_ids(omni, [prompt], stop_ids=stops, max_new_tokens=12)]
        assert reply == free[: free.index(free[3])]
        assert "".join(
            generate(omni, tokenizer, prompt, stop_ids=stops, max_new_tokens=12)
        ) == tokenizer.decode(reply)
        omni.llm.lm_head.weight.data.copy_(weight)


def test_streamed_pieces_keep_the_spaces_between_words() -> None:
    from vita_train.inference.generate import stream_text

    tokenizer = family_tokenizer("mixtral-8x7b")
    ids = tokenizer("the boat a the ☃ a", add_special_tokens=False).input_ids
    parts = list(stream_text(tokenizer, ids))
    assert "".join(parts) == tokenizer.decode(ids) == "the boat a the ☃ a"
    assert " the" in parts


def test_the_balance_loss_is_transformers_over_real_positions(small_spec: ModelSpec) -> None:
    omni, docs = omni_of(small_spec, "mixtral-8x7b"), documents()
    values = []
    for rows in ([docs], [[doc] for doc in docs], [docs[:2], docs[2:]]):
        batch = pack(rows)
        read = omni.read(batch, routers=True)
        assert len(read.routers) == 2
        assert read.routers[0].shape == (batch.input_ids.numel(), 4)
        values.append(balance_loss(omni.llm, read.routers, batch.document_ids > 0))
    # Documents of one batch count the same however they are laid out, so padding does not count.
    assert max(values) - min(values) <= 1e-5
    one = docs[2]
    plain = omni.llm(input_ids=one.input_ids, labels=one.labels, output_router_logits=True)
    ours = balance_loss(omni.llm, omni.read(one, routers=True).routers, one.document_ids > 0)
    assert abs(ours - plain.aux_loss) <= 1e-5
    # By the definition: 4 experts x sum over them of the share of choices x the mean probability.
    probabilities = torch.cat(
        [logits.softmax(-1) for logits in omni.read(one, routers=True).routers]
    )
    chosen = torch.zeros_like(probabilities).scatter(1, probabilities.topk(2).indices, 1.0)
    assert ours.item() == pytest.approx(
        (4 * (chosen.mean(0) * probabilities.mean(0)).sum()).item(), abs=1e-5
    )


def test_checkpointing_of_activations_leaves_the_balance_loss_its_gradients(
    small_spec: ModelSpec,
) -> None:
    omni, batch = omni_of(small_spec, "mixtral-8x7b"), pack([documents()])

    def gradients() -> dict[str, Tensor]:
        omni.zero_grad()
        read = omni.read(batch, routers=True)
        (
            read.hidden.square().mean()
            + balance_loss(omni.llm, read.routers, batch.document_ids > 0)
        ).backward()
        return {
            name: parameter.grad.clone()
            for name, parameter in omni.named_parameters()
            if parameter.grad is not None
        }

    before = gradients()
    enable_checkpointing(nn.ModuleDict({"llm": omni.llm}))
    after = gradients()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert before["llm.model.layers.0.mlp.gate.weight"].abs().sum() > 0


def _read(llm: nn.Module) -> float:
    return sum(
        parameter.numel() * read_share(llm, name) for name, parameter in llm.named_parameters()
    )


def test_a_position_meets_only_the_experts_it_is_read_by(small_spec: ModelSpec) -> None:
    llm, spec = build_llm(spec_of(small_spec, "mixtral-8x7b").llm), small_spec.llm
    expert = 3 * spec.hidden_size * spec.intermediate_size
    total = sum(parameter.numel() for parameter in llm.parameters())
    assert _read(llm) == total - spec.num_layers * 2 * expert
    dense = build_llm(small_spec.llm)
    assert _read(dense) == sum(parameter.numel() for parameter in dense.parameters())


#: What the published config.json say that bears on the computation, in the form they say it.
PUBLISHED_CONFIGS: dict[str, dict[str, Any]] = {
    "qwen2p5_instruct": {
        "model_type": "qwen2",
        "hidden_act": "silu",
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "max_position_embeddings": 32768,
        "max_window_layers": 28,
        "num_attention_heads": 28,
        "num_hidden_layers": 28,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 131072,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "vocab_size": 152064,
    },
    "nemo": {
        "model_type": "mistral",
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 5120,
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
        "num_attention_heads": 32,
        "num_hidden_layers": 40,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "vocab_size": 131072,
    },
    "mixtral-8x7b": {
        "model_type": "mixtral",
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 32768,
        "num_attention_heads": 32,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "rms_norm_eps": 1e-05,
        "rope_theta": 1000000.0,
        "router_aux_loss_coef": 0.02,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "vocab_size": 32000,
    },
    "llama3-8b": {
        "model_type": "llama",
        "attention_bias": False,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 8192,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "vocab_size": 128256,
    },
}


def published(tmp_path: Path, family: Any, **changes: Any) -> str:
    """Try to load a directory that holds a published configuration and no weights; return what is
    wrong with it."""
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED_CONFIGS[family] | changes))
    spec = LlmSpec.model_validate({"family": family, **PUBLISHED[family].shape})
    with pytest.raises(CheckpointError) as error:
        load_llm(spec, str(tmp_path))
    return error.value.what


@pytest.mark.parametrize("family", PUBLISHED_CONFIGS)
def test_a_family_s_published_configuration_fits_its_recipe(family: str, tmp_path: Path) -> None:
    assert published(tmp_path, family).startswith("weights cannot be read")
    assert published(tmp_path, family, rms_norm_eps=1e-3).startswith("rms_norm_eps is 0.001 there")


def test_scaled_positions_are_refused(tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    assert "rope_parameters is" in published(tmp_path, "llama3-8b", rope_scaling=scaling)


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_a_mimetic_start_finds_equal_tokens_again(small_spec: ModelSpec, kv_heads: int) -> None:
    torch.manual_seed(0)
    spec = small_spec.llm.model_copy(
        update={"init": "mimetic", "num_heads": 4, "num_kv_heads": kv_heads}
    )
    llm = build_llm(spec)
    tokens = F.normalize(torch.randn(32, spec.hidden_size), dim=-1) * spec.hidden_size**0.5
    for layer in llm.model.layers:
        attention = layer.self_attn
        queries = F.linear(tokens, attention.q_proj.weight).unflatten(-1, (4, -1))
        keys = F.linear(tokens, attention.k_proj.weight).unflatten(-1, (kv_heads, -1))
        for head in range(kv_heads):
            scores = queries[:, head * 4 // kv_heads] @ keys[:, head].T
            others = scores[~torch.eye(32, dtype=torch.bool)]
            assert scores.diagonal().mean() > 2 * others.std()  # heads here are 8 wide
            assert scores.diagonal().min() > 0


@pytest.mark.parametrize(
    ("heads", "kv_heads", "rope_factor"), [(5, 5, 1.0), (10, 5, 1.0), (5, 5, 4.0)]
)
def test_a_mimetic_start_looks_one_and_two_tokens_back(
    small_spec: ModelSpec, heads: int, kv_heads: int, rope_factor: float
) -> None:
    torch.manual_seed(0)
    spec = small_spec.llm.model_copy(
        update={
            "init": "mimetic",
            "hidden_size": 32 * heads,
            "num_heads": heads,
            "num_kv_heads": kv_heads,
            "rope_factor": rope_factor,
        }
    )
    llm = build_llm(spec)
    llm.config._attn_implementation = "eager"
    tokens = torch.randperm(spec.vocab_size)[:16][None]
    weights = llm(tokens, output_attentions=True).attentions[0][0, :: heads // kv_heads, 2:]
    rows = torch.arange(2, 16)
    for back in (1, 2):
        share = weights[:, torch.arange(14), rows - back].mean(-1)
        assert (share > 0.5).tolist() == [back == 1, back == 1, back == 2, back == 2, False]
