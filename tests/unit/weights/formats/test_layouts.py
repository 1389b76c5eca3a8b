"""Exports in other people's layouts: the release's names and shapes, bit-exact round trips, equal
logits."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel, AutoModelForImageTextToText

from tests.helpers.errors import raises_code
from tests.helpers.foreign import (
    EXPECTED_COUNTS,
    NAMES,
    build,
    imported,
    plan,
    released,
    released_shapes,
)
from vita_train.errors import CheckpointError
from vita_train.models.build import build_modules, cast_parameters
from vita_train.recipe.model import ModelSpec
from vita_train.recipe.schema import Recipe
from vita_train.weights.compare import computed_in_float32, difference, probe_logits
from vita_train.weights.formats.exporting import read_back
from vita_train.weights.formats.hf_export import export_hf
from vita_train.weights.formats.importing import write_import
from vita_train.weights.formats.internvl_export import export_internvl, internvl_logits
from vita_train.weights.formats.source import open_source
from vita_train.weights.formats.tensor_locations import VITA_MODULES, vita_location
from vita_train.weights.formats.vita_export import export_vita
from vita_train.weights.stream import tensor_in_memory


def test_every_tensor_of_the_release_is_one_of_ours_and_none_is_left() -> None:
    spec = ModelSpec()
    with torch.device("meta"):
        modules = build_modules(spec, VITA_MODULES)
    shapes: dict[str, dict[int, tuple[int, ...]]] = {}
    for module in NAMES:
        for name, tensor in modules[module].state_dict().items():
            place = vita_location(module, name, spec)
            assert place is not None, name
            assert place.part not in shapes.get(place.name, {}), f"{place.name} is two of ours"
            shapes.setdefault(place.name, {})[place.part] = tuple(tensor.shape)
    joined = {name: (parts[0][0] * len(parts), *parts[0][1:]) for name, parts in shapes.items()}
    assert joined == released_shapes()
    counts = {
        name: sum(parameter.numel() for parameter in modules[name].parameters()) for name in NAMES
    }
    assert counts == EXPECTED_COUNTS
    assert round(sum(counts.values()) / 1e9, 2) == 8.32


def test_the_released_layout_comes_back_bit_for_bit(
    ours: nn.ModuleDict, small_spec: ModelSpec, recipe: Recipe, corpus: Path, tmp_path: Path
) -> None:
    export_vita(ours, recipe, corpus, tmp_path / "vita")
    written = load_file(tmp_path / "vita" / "model.safetensors")
    expected = released(ours)
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], expected[name]) for name in expected)
    assert "model.audio_encoder.adpter.conv1d2.weight" in written
    back = imported(tmp_path / "vita", small_spec, tmp_path / "imported")
    assert list(back) == list(NAMES)
    assert difference(ours, back) == ""
    ledger = json.loads((tmp_path / "imported" / "ledger.json").read_text())
    assert {row["status"] for row in ledger["rows"]} == {"used", "renamed"}
    assert len(ledger["rows"]) == len(expected)


def test_half_precision_passes_unchanged(
    small_spec: ModelSpec, recipe: Recipe, corpus: Path, tmp_path: Path
) -> None:
    half = recipe.model_copy(update={"model": small_spec.model_copy(update={"dtype": "bfloat16"})})
    modules = build(small_spec)
    export_vita(modules, half, corpus, tmp_path / "vita")
    summary = write_import(plan(tmp_path / "vita", small_spec), tmp_path / "imported")
    stored = load_file(tmp_path / "imported" / "llm.safetensors")
    assert torch.equal(stored["lm_head.weight"], modules["llm"].lm_head.weight)
    assert stored["lm_head.weight"].dtype == torch.bfloat16
    assert summary["modules"]["projector"]["parameters"] == 64 * 32 + 32 + 32 * 32 + 32


def test_transformers_loads_our_directory_without_remote_code(
    small_spec: ModelSpec, recipe: Recipe, corpus: Path, tmp_path: Path
) -> None:
    modules = build(small_spec, names=(*NAMES[:4], "ctc_head", "audio_adapter"))
    export_hf(
        modules, recipe, corpus, tmp_path / "hf"
    )  # AutoModel loads it there, tensors and logits are compared
    assert "auto_map" not in json.loads((tmp_path / "hf" / "config.json").read_text())
    assert difference(modules, imported(tmp_path / "hf", small_spec, tmp_path / "imported")) == ""
    assert not open_source(tmp_path / "hf").terms


def test_transformers_loads_half_precision_with_its_statistics_in_full(
    small_spec: ModelSpec, recipe: Recipe, corpus: Path, tmp_path: Path
) -> None:
    half = recipe.model_copy(update={"model": small_spec.model_copy(update={"dtype": "bfloat16"})})
    export_hf(build(small_spec), half, corpus, tmp_path / "hf")  # types are compared too
    loaded = AutoModel.from_pretrained(str(tmp_path / "hf"))
    assert loaded.projector[0].weight.dtype == torch.bfloat16
    assert loaded.audio_encoder.global_cmvn.istd.dtype == torch.float32


def test_tied_embeddings_are_stored_once_in_every_layout(
    small_spec: ModelSpec, recipe: Recipe, corpus: Path, tmp_path: Path
) -> None:
    spec = small_spec.model_copy(
        update={"llm": small_spec.llm.model_copy(update={"tie_embeddings": True})}
    )
    tied = recipe.model_copy(update={"model": spec})
    modules = build(spec)
    export_vita(modules, tied, corpus, tmp_path / "vita")
    assert "lm_head.weight" not in load_file(tmp_path / "vita" / "model.safetensors")
    assert difference(modules, read_back(tied, tmp_path / "vita", NAMES, tmp_path / "again")) == ""
    export_hf(modules, tied, corpus, tmp_path / "hf")
    export_internvl(modules, tied, corpus, tmp_path / "internvl")


def test_transformers_own_internvl_classes_say_the_same(
    ours: nn.ModuleDict, recipe: Recipe, corpus: Path, tmp_path: Path
) -> None:
    export_internvl(ours, recipe, corpus, tmp_path / "internvl")
    half = nn.ModuleDict({name: ours[name] for name in ("llm", "vision", "projector")})
    expected, found = internvl_logits(half, tmp_path / "internvl")
    theirs = AutoModelForImageTextToText.from_pretrained(str(tmp_path / "internvl"))
    assert type(theirs).__name__ == "InternVLForConditionalGeneration"
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    summary = json.loads((tmp_path / "internvl" / "export.json").read_text())
    assert summary["left_out"] == ["audio_encoder", "audio_adapter"]


def test_internvl_in_half_precision_is_compared_in_full(
    small_spec: ModelSpec, recipe: Recipe, corpus: Path, tmp_path: Path
) -> None:
    spec = small_spec.model_copy(update={"dtype": "bfloat16"})
    half = build(small_spec, names=("llm", "vision", "projector"))
    export_internvl(half, recipe.model_copy(update={"model": spec}), corpus, tmp_path / "internvl")
    assert {tensor.dtype for tensor in half.parameters()} == {torch.bfloat16}
    cast_parameters(
        nn.ModuleDict({name: half[name] for name in ("vision", "projector")}), torch.float32
    )
    full = cast_parameters(copy.deepcopy(half), torch.float32)
    before = {name: (tensor.dtype, tensor.data_ptr()) for name, tensor in half.named_parameters()}
    with computed_in_float32(half):
        assert torch.equal(probe_logits(half), probe_logits(full))
    expected, found = internvl_logits(half, tmp_path / "internvl")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert {
        name: (tensor.dtype, tensor.data_ptr()) for name, tensor in half.named_parameters()
    } == before


def test_the_picture_reaches_the_internvl_logits(
    small_spec: ModelSpec, recipe: Recipe, corpus: Path, tmp_path: Path
) -> None:
    half = build(small_spec, names=("llm", "vision", "projector"))
    export_internvl(half, recipe, corpus, tmp_path / "internvl")
    with torch.no_grad():
        half["projector"][2].bias.add_(1.0)
    changed, exported = internvl_logits(half, tmp_path / "internvl")
    assert (changed - exported).abs().max() > 1e-3


def test_an_export_that_its_layout_cannot_say_is_refused(
    ours: nn.ModuleDict, small_spec: ModelSpec, recipe: Recipe, corpus: Path, tmp_path: Path
) -> None:
    spec = small_spec.model_copy(
        update={
            "audio_encoder": small_spec.audio_encoder.model_copy(update={"relative_shift": True})
        }
    )
    with raises_code(CheckpointError, "VT-WEIGHTS-059", "relative_shift"):
        export_vita(ours, recipe.model_copy(update={"model": spec}), corpus, tmp_path / "vita")
    # Before weights are asked: VITA's code would not know what to make of the name.
    projector = small_spec.projector.model_copy(update={"kind": "mlp_downsample"})
    other = small_spec.model_copy(update={"projector": projector})
    with raises_code(CheckpointError, "VT-WEIGHTS-059", "mlp_downsample"):
        export_vita(ours, recipe.model_copy(update={"model": other}), corpus, tmp_path / "vita")
    convolved = spec.model_copy(
        update={"audio_encoder": small_spec.audio_encoder.model_copy(update={"conv_kernel": 3})}
    )
    with raises_code(CheckpointError, "VT-WEIGHTS-058", "audio_encoder.encoders.0.norm_conv"):
        export_vita(
            build(convolved),
            recipe.model_copy(update={"model": convolved}),
            corpus,
            tmp_path / "vita",
        )
    assert not (tmp_path / "vita").exists()


def test_prompt_and_state_head_come_back_and_other_families_are_named(
    small_spec: ModelSpec, recipe: Recipe, corpus: Path, tmp_path: Path
) -> None:
    adapter = small_spec.audio_adapter.model_copy(update={"prompt_tokens": 3})
    llm = small_spec.llm.model_copy(update={"family": "qwen2p5_fo_instruct"})
    spec = small_spec.model_copy(update={"audio_adapter": adapter, "llm": llm})
    named = recipe.model_copy(update={"model": spec})
    modules = build(spec, names=(*NAMES, "audio_prompt", "state_head"))
    export_vita(modules, named, corpus, tmp_path / "vita")
    config = json.loads((tmp_path / "vita" / "config.json").read_text())
    assert (config["model_type"], config["audio_prompt_num"]) == ("vita-fo-Qwen2", 3)
    assert {"model.audio_encoder.prompt_embeddings.weight", "predictor_head.bias"} <= set(
        load_file(tmp_path / "vita" / "model.safetensors")
    )
    assert difference(modules, imported(tmp_path / "vita", spec, tmp_path / "imported")) == ""
    left = plan(tmp_path / "vita", small_spec)
    assert [row.detail for row in left.report.rows if "prompt_embeddings" in row.theirs] == [
        "the recipe has no audio prompt (model.audio_adapter.prompt_tokens)"
    ]
    llama = named.model_copy(
        update={
            "model": spec.model_copy(update={"llm": llm.model_copy(update={"family": "llama3-8b"})})
        }
    )
    with raises_code(CheckpointError, "VT-WEIGHTS-057", "llama3-8b"):
        export_vita(modules, llama, corpus, tmp_path / "llama")


def test_a_scalar_passes_as_its_only_part() -> None:
    assert tensor_in_memory(torch.tensor(5)).share(0, 1).load() == 5
