"""Settings that travel with weights, parts of every kind, and imports of some modules alone."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

from tests.helpers.errors import raises_code
from tests.helpers.foreign import ENCODER_SETTINGS as SETTINGS
from tests.helpers.foreign import build, imported, plan, released, write_speech_directory
from vita_train.errors import CheckpointError
from vita_train.models.build import build_modules
from vita_train.recipe.model import ModelSpec
from vita_train.recipe.schema import Recipe
from vita_train.weights.compare import difference
from vita_train.weights.formats.importing import plan_import, write_import
from vita_train.weights.formats.source import open_source
from vita_train.weights.formats.stage_export import export_stage
from vita_train.weights.formats.vita_export import export_vita

STATISTICS = '{"mean_stat": [0], "var_stat": [1], "frame_num": 1}'


def changed(path: str, value: object) -> dict[str, Any]:
    """The settings with one of them changed, or taken out."""
    content = copy.deepcopy(SETTINGS)
    *levels, name = path.split(".")
    place = content
    for level in levels:
        place = place[level]
    if value is None:
        place.pop(name)
    else:
        place[name] = value
    return content


def write_encoder(
    modules: nn.ModuleDict, folder: Path, settings: dict[str, Any], spec: ModelSpec | None = None
) -> None:
    folder.mkdir(exist_ok=True)
    bins = json.dumps({"mean_stat": [0.0] * 80, "var_stat": [1.0] * 80, "frame_num": 1})
    write_speech_directory(modules, folder, bins, settings=yaml.safe_dump(settings), spec=spec)


_TRANSFORMER = "encoder_conf.para_conf.transformer.transformer-"


@pytest.mark.parametrize(
    ("path", "value", "agrees"),
    [
        (f"{_TRANSFORMER}dynamic-chunks", False, "model.audio_encoder.dynamic_chunks=false"),
        (f"{_TRANSFORMER}attention-heads", 4, "model.audio_encoder.num_heads=4"),
        (f"{_TRANSFORMER}pos-enc-class", "abs-enc", ""),
        (f"{_TRANSFORMER}normalize-before", False, ""),
        ("model_conf.activation_func", "relu", "model.audio_adapter.activation=relu"),
        ("model_conf.activation_func", None, "model.audio_adapter.activation=relu"),
        ("model_conf.norm", "batch", "model.audio_adapter.norm=batch"),
        ("model_conf.adpter_type", "cnn", "model.audio_adapter.kind=cnn"),
        ("dataset_conf.resample_conf.resample_rate", 8000, "data.audio.sample_rate=8000"),
    ],
)
def test_what_train_yaml_contradicts_is_told_with_what_would_agree(
    ours: nn.ModuleDict, small_spec: ModelSpec, tmp_path: Path, path: str, value: Any, agrees: str
) -> None:
    write_encoder(ours, tmp_path / "same", SETTINGS)
    assert not plan(tmp_path / "same", small_spec).report.problems
    write_encoder(ours, tmp_path / "other", changed(path, value))
    (problem,) = plan(tmp_path / "other", small_spec).report.problems
    assert path in problem
    assert f"--set {agrees}" in problem if agrees else "--set" not in problem
    with pytest.raises(CheckpointError):
        write_import(plan(tmp_path / "other", small_spec), tmp_path / "out")


def test_fixed_chunks_must_agree_and_agree_once_they_are_set(
    ours: nn.ModuleDict, small_spec: ModelSpec, tmp_path: Path
) -> None:
    fixed = changed(f"{_TRANSFORMER}dynamic-chunks", False)
    transformer = fixed["encoder_conf"]["para_conf"]["transformer"]
    transformer |= {"transformer-chunk_size": 4, "transformer-left_chunks": 2}
    write_encoder(ours, tmp_path / "encoder", fixed)
    problems = "; ".join(plan(tmp_path / "encoder", small_spec).report.problems)
    keys = {"dynamic_chunks": False, "chunk_size": 4, "left_chunks": 2}
    for key, value in keys.items():
        assert f"--set model.audio_encoder.{key}={str(value).lower()}" in problems
    encoder = small_spec.audio_encoder.model_copy(update=keys)
    agreed = small_spec.model_copy(update={"audio_encoder": encoder})
    assert not plan(tmp_path / "encoder", agreed).report.problems
    # Where they are drawn, a size is only told, as are the rates of training.
    drawn = changed(f"{_TRANSFORMER}chunk_size", 4)
    write_encoder(ours, tmp_path / "drawn", drawn)
    report = plan(tmp_path / "drawn", small_spec).report
    assert not report.problems
    assert any("chunk_size is 4" in note for note in report.notes)
    assert any("dither is 1.0" in note for note in report.notes)


@pytest.mark.parametrize(
    ("setting", "value", "agrees"),
    [
        ("num_attention_heads", 4, "--set model.vision.num_heads=4"),
        ("hidden_act", "relu", "nothing else is built"),
        ("layer_norm_eps", 1e-5, "nothing else is built"),
        ("image_size", [40, 40], "--set model.vision.image_size=40"),
        ("qk_normalization", True, "nothing else is built"),
    ],
)
def test_what_a_towers_config_contradicts_is_told(
    ours: nn.ModuleDict,
    small_spec: ModelSpec,
    tmp_path: Path,
    setting: str,
    value: Any,
    agrees: str,
) -> None:
    start = "model.vision_tower.vision_tower."
    save_file(
        {
            name.removeprefix(start): tensor.clone()
            for name, tensor in released(ours).items()
            if name.startswith(start)
        },
        tmp_path / "model.safetensors",
    )
    config = {
        "model_type": "intern_vit_6b",
        "num_attention_heads": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-06,
        "image_size": 32,
        "patch_size": 8,
        "qk_normalization": False,
        "norm_type": "layer_norm",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert not plan(tmp_path, small_spec).report.problems
    (tmp_path / "config.json").write_text(json.dumps(config | {setting: value}))
    (problem,) = plan(tmp_path, small_spec).report.problems
    assert setting in problem
    assert agrees in problem


def with_parts(small: ModelSpec, **parts: dict[str, Any]) -> ModelSpec:
    return ModelSpec.model_validate(small.model_dump() | parts)


@pytest.mark.parametrize(
    "kind",
    [
        "linear",
        "mlp1x_gelu",
        "mlp3x_gelu",
        "spp_v1",
        "spp_v2",
        "spp_v3",
        "ldp",
        "vanilla",
        "minigpt",
    ],
)
def test_every_projector_goes_out_and_comes_in(
    small_spec: ModelSpec, recipe: Recipe, corpus: Path, tmp_path: Path, kind: str
) -> None:
    spec = with_parts(small_spec, projector={"kind": kind})
    modules = build(spec, names=("llm", "vision", "projector"))
    export_vita(modules, recipe.model_copy(update={"model": spec}), corpus, tmp_path / "vita")
    config = json.loads((tmp_path / "vita" / "config.json").read_text())
    assert config["mm_projector_type"] == kind
    assert difference(modules, imported(tmp_path / "vita", spec, tmp_path / "in")) == ""
    names = {
        name.removeprefix("model.mm_projector.")
        for name in load_file(tmp_path / "vita" / "model.safetensors")
        if "mm_projector" in name
    }
    if kind == "ldp":  # names of torchvision's block and timm's norm in the public module
        block = {"0.0.weight", "2.0.weight"} | {
            f"{place}.{part}"
            for place in ("0.1", "1.fc1", "1.fc2", "2.1")
            for part in ("weight", "bias")
        }
        assert names == {f"model.mlp.{k}.{part}" for k in (1, 3) for part in ("weight", "bias")} | {
            f"model.mb_block.{number}.block.{name}" for number in (1, 2) for name in block
        }
    elif kind.startswith("spp"):  # the public class has all three layers in every version
        assert names == {f"linear_{k}.{part}" for k in range(3) for part in ("weight", "bias")}
    other = "linear" if kind != "linear" else "mlp2x_gelu"
    problems = plan(tmp_path / "vita", with_parts(small_spec, projector={"kind": other})).report
    assert any(f"--set model.projector.kind={kind}" in problem for problem in problems.problems)


@pytest.mark.parametrize(
    ("adapter", "names"),
    [
        (
            {"kind": "cnn", "kernel": 3},
            {
                *(
                    f"{part}{k}.{name}"
                    for part in ("conv1d", "bn")
                    for k in (1, 2)
                    for name in ("weight", "bias")
                ),
                *(
                    f"bn{k}.{name}"
                    for k in (1, 2)
                    for name in ("running_mean", "running_var", "num_batches_tracked")
                ),
                "project.weight",
                "project.bias",
            },
        ),
        ({"kind": "linear"}, {"adpter.weight", "adpter.bias"}),
        (
            {"kind": "subsampling", "hidden_size": 32, "norm": "batch", "activation": "relu"},
            {
                *(
                    f"{part}.{name}"
                    for part in ("conv1d2", "bn2", "project")
                    for name in ("weight", "bias")
                ),
                *(f"bn2.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")),
            },
        ),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
def test_every_adapter_goes_out_and_comes_in(
    small_spec: ModelSpec,
    recipe: Recipe,
    corpus: Path,
    tmp_path: Path,
    adapter: dict[str, Any],
    names: set[str],
) -> None:
    spec = with_parts(small_spec, audio_adapter=adapter)
    modules = build(spec, names=("llm", "audio_encoder", "audio_adapter"))
    export_vita(modules, recipe.model_copy(update={"model": spec}), corpus, tmp_path / "vita")
    start = "model.audio_encoder.adpter."
    stored = load_file(tmp_path / "vita" / "model.safetensors")
    assert {name.removeprefix(start) for name in stored if name.startswith(start)} == names
    assert difference(modules, imported(tmp_path / "vita", spec, tmp_path / "in")) == ""
    # The speech encoder's own directory holds both modules, and describes them.
    folder = tmp_path / "vita" / "audio-encoder"
    speech = imported(folder, spec, tmp_path / "speech")
    assert list(speech) == ["audio_encoder", "audio_adapter"]
    assert difference(modules, speech) == ""
    assert (
        yaml.safe_load((folder / "train.yaml").read_text())["model_conf"]["adpter_type"]
        == (adapter["kind"])
    )
    problems = plan(folder, small_spec).report.problems
    assert problems


def test_the_export_describes_its_encoder_as_the_public_keys_have_it(
    ours: nn.ModuleDict, recipe: Recipe, corpus: Path, tmp_path: Path
) -> None:
    named = recipe.model.vision.model_copy(update={"source": "OpenGVLab/InternViT-300M-448px"})
    model = recipe.model.model_copy(update={"vision": named})
    export_vita(ours, recipe.model_copy(update={"model": model}), corpus, tmp_path / "vita")
    folder = tmp_path / "vita" / "audio-encoder"
    written = yaml.safe_load((folder / "train.yaml").read_text())
    for section in ("encoder_conf", "model_conf", "dataset_conf"):
        flat, expected = _flat(written[section]), _flat(SETTINGS[section])
        assert {key: flat[key] for key in expected if "dither" not in key} == {
            key: expected[key] for key in expected if "dither" not in key
        }
    statistics = json.loads((folder / "global_cmvn").read_text())
    mean = torch.tensor(statistics["mean_stat"], dtype=torch.float64) / statistics["frame_num"]
    variance = torch.tensor(statistics["var_stat"], dtype=torch.float64) - mean**2
    cmvn = ours["audio_encoder"].global_cmvn
    torch.testing.assert_close(mean.float(), cmvn.mean)
    torch.testing.assert_close(variance.rsqrt().float(), cmvn.istd.abs())
    config = json.loads((tmp_path / "vita" / "config.json").read_text())
    assert config["mm_vision_tower"] == "OpenGVLab/InternViT-300M-448px"
    assert config["mm_audio_encoder"] == "audio-encoder"
    assert config["tokenizer_model_max_length"] == recipe.stages["1.1"].batch.seq_len
    # Weights of another width than the public class gives its adapter could not be loaded there.
    wide = recipe.model.audio_adapter.model_copy(update={"hidden_size": 24})
    other = recipe.model.model_copy(update={"audio_adapter": wide})
    with raises_code(CheckpointError, "VT-WEIGHTS-059", "audio_adapter.hidden_size is 24"):
        export_vita(
            build(other), recipe.model_copy(update={"model": other}), corpus, tmp_path / "wide"
        )


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return found


def test_a_leftover_of_another_module_keeps_no_module_out(
    ours: nn.ModuleDict, small_spec: ModelSpec, tmp_path: Path
) -> None:
    write_encoder(ours, tmp_path / "encoder", SETTINGS)
    state = torch.load(tmp_path / "encoder" / "final.pt", weights_only=True)
    torch.save(state | {"ctc.ctc_lo.weight": torch.zeros(3, 16)}, tmp_path / "encoder" / "final.pt")
    assert [row.theirs for row in plan(tmp_path / "encoder", small_spec).report.faults] == [
        "ctc.ctc_lo.weight"
    ]
    back = imported(tmp_path / "encoder", small_spec, tmp_path / "in", ("audio_encoder",))
    assert list(back) == ["audio_encoder"]
    assert difference(nn.ModuleDict({"audio_encoder": ours["audio_encoder"]}), back) == ""


def test_files_of_other_modules_are_not_read(
    ours: nn.ModuleDict, small_spec: ModelSpec, tmp_path: Path
) -> None:
    write_encoder(ours, tmp_path / "encoder", SETTINGS)
    (tmp_path / "encoder" / "global_cmvn").write_text("damaged")
    source = open_source(tmp_path / "encoder", modules=("audio_adapter",))
    assert not plan_import(source, small_spec, ("audio_adapter",)).report.faults
    tensors = released(ours)
    names = {
        "model-00001-of-00002.safetensors": [n for n in tensors if "mm_projector" in n],
        "model-00002-of-00002.safetensors": [n for n in tensors if "mm_projector" not in n],
    }
    folder = tmp_path / "shards"
    folder.mkdir()
    weight_map = {name: file for file, held in names.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    first, held = next(iter(names.items()))
    save_file({name: tensors[name].clone() for name in held}, folder / first)
    source = open_source(folder, modules=("projector",))  # the other file is not even there
    report = plan_import(source, small_spec, ("projector",)).report
    assert not report.faults
    assert not report.problems
    with pytest.raises(CheckpointError):
        open_source(folder)


def test_the_number_of_heads_changes_what_the_tower_computes(small_spec: ModelSpec) -> None:
    """Why it must agree: the same weights load into either."""
    first = build(small_spec, names=("vision",))["vision"]
    wide = small_spec.vision.model_copy(update={"num_heads": 4})
    other = build_modules(small_spec.model_copy(update={"vision": wide}), ("vision",)).eval()[
        "vision"
    ]
    other.load_state_dict(first.state_dict())
    tiles = torch.randn(1, 3, 32, 32)
    assert not torch.allclose(first(tiles), other(tiles), atol=1e-4)


def test_the_files_of_a_stage_come_back_bit_for_bit(
    ours: nn.ModuleDict, small_spec: ModelSpec, recipe: Recipe, corpus: Path, tmp_path: Path
) -> None:
    export_stage(ours, recipe, corpus, tmp_path / "stage")
    files = {path.name for path in (tmp_path / "stage").iterdir()}
    assert {"mm_projector.bin", "audio_projector.bin", "config.json"} <= files
    stored = torch.load(tmp_path / "stage" / "audio_projector.bin", weights_only=True)
    assert "model.audio_encoder.adpter.conv1d2.weight" in stored
    back = imported(tmp_path / "stage", small_spec, tmp_path / "in")
    assert list(back) == ["projector", "audio_adapter"]
    assert difference(ours, back) == ""
    alone = imported(tmp_path / "stage" / "audio_projector.bin", small_spec, tmp_path / "alone")
    assert list(alone) == ["audio_adapter"]
    other = with_parts(small_spec, projector={"kind": "linear"})
    problems = plan(tmp_path / "stage", other).report.problems
    assert any("--set model.projector.kind=mlp2x_gelu" in problem for problem in problems)
