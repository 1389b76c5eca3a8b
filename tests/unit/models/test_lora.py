"""Adapters: where they sit, what trains, that they start as nothing, and that they merge into what
they were."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.helpers.errors import raises_code
from vita_train.errors import CheckpointError, RecipeError
from vita_train.models.build import build_modules
from vita_train.models.language.decoder import build_llm
from vita_train.models.lora import (
    adapter_names,
    add_adapters,
    has_adapters,
    merge_adapters,
    release_adapters,
    target_layers,
    to_peft,
)
from vita_train.models.quantize import elements, quantize_blocks, quantized_bytes
from vita_train.recipe.lora import LoraSpec, QuantizeSpec
from vita_train.recipe.model import ModelSpec
from vita_train.weights.adapters import (
    Adapter,
    AdapterConfig,
    adapted_digest,
    attach_adapter,
    save_adapter,
    weights_digest,
)
from vita_train.weights.compare import probe_logits

ATTENTION = ["self_attn.k_proj", "self_attn.o_proj", "self_attn.q_proj", "self_attn.v_proj"]
MLP = ["mlp.down_proj", "mlp.gate_proj", "mlp.up_proj"]


def language_model(spec: ModelSpec, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_llm(spec.llm).eval()


def logits(llm: Any) -> torch.Tensor:
    ids = torch.randint(0, 97, (2, 12), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        found: torch.Tensor = llm(input_ids=ids).logits
    return found


def config(module: nn.Module, **settings: Any) -> AdapterConfig:
    return AdapterConfig.of(LoraSpec(**{"rank": 4, "alpha": 8, **settings}), module)


def disturb(module: nn.Module) -> None:
    """Give an adapter values, as training would."""
    generator = torch.Generator().manual_seed(1)
    for name in adapter_names(module):
        parameter = module.get_parameter(name)
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)


def trained_adapter(spec: ModelSpec, **settings: Any) -> tuple[nn.Module, Adapter]:
    llm = language_model(spec)
    made, base = config(llm, **settings), weights_digest(llm)
    add_adapters(llm, made.peft())
    disturb(llm)
    return llm, Adapter(
        made, {to_peft(name): llm.get_parameter(name).detach() for name in adapter_names(llm)}, base
    )


@pytest.mark.parametrize(
    ("module", "roles", "expected"),
    [
        ("llm", ("attention",), ATTENTION),
        ("llm", ("mlp",), MLP),
        (
            "vision",
            ("attention", "mlp"),
            [
                "attention.k_proj",
                "attention.projection_layer",
                "attention.q_proj",
                "attention.v_proj",
                "mlp.fc1",
                "mlp.fc2",
            ],
        ),
        ("audio_encoder", ("mlp",), ["feed_forward.w_1", "feed_forward.w_2"]),
    ],
)
def test_roles_name_layers_of_the_blocks_alone(
    modules: nn.ModuleDict, module: str, roles: tuple[str, ...], expected: list[str]
) -> None:
    assert target_layers(modules[module], roles) == expected
    add_adapters(modules[module], config(modules[module], roles=roles, modules=(module,)).peft())
    adapted = {name.partition(".lora_")[0] for name in adapter_names(modules[module])}
    assert len(adapted) == 2 * len(expected)  # two blocks
    assert all(name.endswith(tuple(expected)) for name in adapted)


def test_a_module_without_a_role_is_refused(modules: nn.ModuleDict) -> None:
    with raises_code(RecipeError, "VT-RECIPE-022", "lora.roles", "'attention'"):
        target_layers(modules["projector"], ["attention"])


@pytest.mark.parametrize("kind", [None, "nf4", "fp4", "int8"])
def test_adapters_start_as_nothing_and_alone_train(small_spec: ModelSpec, kind: Any) -> None:
    llm = language_model(small_spec)
    if kind:
        quantize_blocks(
            llm, QuantizeSpec(kind=kind), device=torch.device("cpu"), dtype=torch.float32
        )
    before = logits(llm)
    add_adapters(llm, config(llm).peft())
    assert torch.equal(logits(llm), before)
    release_adapters(llm)
    wanted = {
        f"model.layers.{block}.{layer}.lora_{side}.default.weight"
        for block in range(2)
        for layer in ATTENTION + MLP
        for side in "AB"
    }
    assert {name for name, parameter in llm.named_parameters() if parameter.requires_grad} == wanted


def test_first_values_come_from_the_seed_alone(small_spec: ModelSpec) -> None:
    made = []
    for noise, seed in ((0, 5), (1, 5), (2, 6)):
        llm = language_model(small_spec)
        torch.manual_seed(noise)
        state = torch.random.get_rng_state()
        add_adapters(llm, config(llm).peft(), seed=seed)
        assert torch.equal(torch.random.get_rng_state(), state)
        made.append(torch.cat([llm.get_parameter(name).flatten() for name in adapter_names(llm)]))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_merged_says_what_the_adapter_said(small_spec: ModelSpec) -> None:
    llm, _ = trained_adapter(small_spec)
    plain, before = language_model(small_spec), logits(llm)
    assert (before - logits(plain)).abs().max() > 0.1
    merge_adapters(llm)
    assert not has_adapters(llm)
    assert set(llm.state_dict()) == set(plain.state_dict())
    assert (logits(llm) - before).abs().max() < 1e-5


@pytest.mark.parametrize("bias", ["none", "all"])
def test_plain_peft_loads_the_saved_adapter_onto_the_plain_model(
    small_spec: ModelSpec, tmp_path: Path, bias: str
) -> None:
    from peft import PeftModel

    llm, adapter = trained_adapter(small_spec, bias=bias)
    save_adapter(adapter, tmp_path)
    loaded = PeftModel.from_pretrained(language_model(small_spec), tmp_path).eval()
    assert torch.equal(logits(loaded), logits(llm))


def test_the_same_adapter_gives_the_same_bytes(small_spec: ModelSpec, tmp_path: Path) -> None:
    _, adapter = trained_adapter(small_spec)
    first, second = save_adapter(adapter, tmp_path / "a"), save_adapter(adapter, tmp_path / "b")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert json.loads(first[0].read_text())["target_modules"] == sorted(ATTENTION + MLP)


def test_attached_adapter_is_the_trained_one(small_spec: ModelSpec, tmp_path: Path) -> None:
    llm, adapter = trained_adapter(small_spec, bias="all")
    files = save_adapter(adapter, tmp_path)
    other = language_model(small_spec)
    attach_adapter(other, files, weights_digest(other))
    assert torch.equal(logits(other), logits(llm))


def test_an_adapter_of_other_weights_is_refused(small_spec: ModelSpec, tmp_path: Path) -> None:
    _, adapter = trained_adapter(small_spec)
    files = save_adapter(adapter, tmp_path)
    other = language_model(small_spec, seed=1)
    with raises_code(CheckpointError, "VT-WEIGHTS-018"):
        attach_adapter(other, files, weights_digest(other))
    assert not has_adapters(other)
    # what stands on an adapter does not stand on the plain weights
    assert adapted_digest(files) not in {adapter.base, weights_digest(other)}


def test_the_digest_of_weights_does_not_depend_on_their_type(small_spec: ModelSpec) -> None:
    half = build_modules(small_spec, ["llm"], dtype=torch.bfloat16)["llm"]
    digest = weights_digest(half)
    assert weights_digest(half.float()) == digest
    next(half.parameters()).data[0, 0] += 1
    assert weights_digest(half) != digest


@pytest.mark.parametrize(
    ("change", "code", "fact"),
    [
        ({"use_dora": True}, "VT-WEIGHTS-024", "use_dora"),
        ({"rank_pattern": {"q_proj": 2}}, "VT-WEIGHTS-024", "rank_pattern"),
        ({"peft_type": "IA3"}, "VT-WEIGHTS-023", "peft_type"),
        ({"r": "4"}, "VT-WEIGHTS-023", "r: "),
        ({"r": 10**12}, "VT-WEIGHTS-017", "1000000000000"),
        ({"init_lora_weights": "pissa"}, "VT-WEIGHTS-024", "init_lora_weights"),
        ({"bias": "all"}, "VT-WEIGHTS-008", "k_proj.base_layer.bias"),
        ({"target_modules": ["self_attn.q_proj"]}, "VT-WEIGHTS-008", "down_proj.lora_A.weight"),
        ({"target_modules": ["elsewhere"]}, "VT-WEIGHTS-020", "'elsewhere'"),
    ],
)
def test_foreign_adapters_are_refused_in_one_line(
    small_spec: ModelSpec, tmp_path: Path, change: dict[str, Any], code: str, fact: str
) -> None:
    _, adapter = trained_adapter(small_spec)
    files = save_adapter(adapter, tmp_path)
    files[0].write_text(json.dumps(json.loads(files[0].read_text()) | change))
    with raises_code(CheckpointError, code, fact):
        attach_adapter(language_model(small_spec), files, adapter.base)


def test_numbers_that_are_not_finite_are_not_merged(small_spec: ModelSpec, tmp_path: Path) -> None:
    _, adapter = trained_adapter(small_spec)
    _, weights = save_adapter(adapter, tmp_path)
    other = language_model(small_spec)
    attach_adapter(other, (tmp_path / "adapter_config.json", weights), adapter.base)
    next(value for name, value in other.named_parameters() if "lora_" in name).data.fill_(torch.nan)
    with raises_code(CheckpointError, "VT-WEIGHTS-009"):
        merge_adapters(other)
    tensors = load_file(weights)
    next(iter(tensors.values())).fill_(float("nan"))
    save_file(tensors, weights, {"format": "pt", "base": adapter.base})
    with raises_code(CheckpointError, "VT-WEIGHTS-007"):
        attach_adapter(
            language_model(small_spec), (tmp_path / "adapter_config.json", weights), adapter.base
        )


@pytest.mark.parametrize(
    ("kind", "double", "bits"),
    [("nf4", True, 4.13), ("nf4", False, 4.5), ("fp4", True, 4.13), ("int8", True, 8.5)],
)
def test_only_the_matrices_of_the_blocks_are_quantised(
    small_spec: ModelSpec, kind: Any, double: bool, bits: float
) -> None:
    wide = small_spec.model_copy(
        update={"llm": small_spec.llm.model_copy(update={"hidden_size": 64})}
    )
    llm, spec = language_model(wide), QuantizeSpec(kind=kind, double=double)
    sizes = {name: parameter.numel() for name, parameter in llm.named_parameters()}
    layers = {
        name: layer
        for name, layer in llm.named_modules()
        if isinstance(layer, nn.Linear) and "layers" in name
    }
    expected = {name: quantized_bytes(layer, spec) for name, layer in layers.items()}
    quantize_blocks(llm, spec, device=torch.device("cpu"), dtype=torch.float32)
    held = {
        name: parameter
        for name, parameter in llm.named_parameters()
        if not parameter.is_floating_point()
    }
    assert set(held) == {f"{name}.weight" for name in layers}
    assert {name: elements(parameter) for name, parameter in llm.named_parameters()} == sizes
    total = sum(expected.values())
    assert 8 * total / sum(sizes[name] for name in held) == pytest.approx(bits, rel=0.1)
    stored = sum(
        tensor.numel() * tensor.element_size()
        for name, tensor in llm.state_dict().items()
        if any(name.startswith(f"{layer}.") for layer in layers)
        and not name.endswith((".bias", "quant_map"))
        and "quant_state" not in name
        and "weight_format" not in name
    )
    assert stored == pytest.approx(total, rel=0.02)


def test_probe_sees_adapters_of_every_module(modules: nn.ModuleDict) -> None:
    before = probe_logits(modules)
    for name in ("vision", "audio_encoder"):
        add_adapters(modules[name], config(modules[name], modules=(name,)).peft())
        assert torch.equal(probe_logits(modules), before)
        disturb(modules[name])
        assert not torch.equal(probe_logits(modules), before)
        before = probe_logits(modules)
        merge_adapters(modules[name])
        assert torch.allclose(probe_logits(modules), before, atol=1e-5)
        before = probe_logits(modules)


def test_without_bitsandbytes_one_line_says_so(
    small_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    facts = ("stages.1.2.quantize", "bitsandbytes", "pip install 'vita-train[quant]'")
    with raises_code(RecipeError, "VT-RECIPE-023", *facts):
        quantize_blocks(
            language_model(small_spec),
            QuantizeSpec(kind="nf4"),
            device=torch.device("cpu"),
            dtype=torch.float32,
            where="stages.1.2.quantize",
        )


def test_only_the_biases_of_adapted_layers_train(small_spec: ModelSpec) -> None:
    spec = LoraSpec(rank=2, bias="lora_only", roles=("attention",))
    llm = language_model(small_spec)
    add_adapters(llm, AdapterConfig.of(spec, llm).peft())
    release_adapters(llm)
    biases = {name for name in adapter_names(llm) if name.endswith("bias")}
    layers = range(small_spec.llm.num_layers)
    assert biases == {
        f"model.layers.{k}.self_attn.{part}_proj.base_layer.bias" for k in layers for part in "qkv"
    }
    trained = {name for name, parameter in llm.named_parameters() if parameter.requires_grad}
    assert trained == set(adapter_names(llm))
