"""Imports of other people's checkpoints: every kind of file, every tensor explained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from tests.helpers.errors import raises_code
from tests.helpers.foreign import (
    NAMES,
    imported,
    plan,
    released,
    write_shards,
    write_speech_directory,
)
from vita_train.cli.main import build_app
from vita_train.errors import CheckpointError, UserError
from vita_train.models.build import build_modules
from vita_train.planning.parameters import check_pretrained
from vita_train.recipe.model import ModelSpec
from vita_train.recipe.schema import Recipe
from vita_train.runs.final import write_final
from vita_train.runs.manifest import Manifest, ModuleRef
from vita_train.runs.run import Run
from vita_train.storage.factory import open_store
from vita_train.training.inputs import find_inputs
from vita_train.training.weights import load_inputs
from vita_train.weights.compare import difference
from vita_train.weights.export import newest_modules
from vita_train.weights.formats.importing import write_import
from vita_train.weights.formats.source import open_source
from vita_train.weights.formats.vita_export import export_vita
from vita_train.weights.load import load_modules
from vita_train.weights.save import save_modules


def test_shards_and_both_spellings_are_read(
    ours: nn.ModuleDict, small_spec: ModelSpec, tmp_path: Path
) -> None:
    tensors = {
        name.replace("adpter", "audio_adapter"): tensor.clone()
        for name, tensor in released(ours).items()
    }
    write_shards(tensors, tmp_path)
    assert difference(ours, imported(tmp_path, small_spec, tmp_path / "out")) == ""
    source = open_source(tmp_path)
    assert source.layout.name == "vita"
    assert "VITA" in source.terms


def test_small_output_shards_load_to_the_same(
    ours: nn.ModuleDict, small_spec: ModelSpec, tmp_path: Path
) -> None:
    save_file(
        {name: tensor.clone() for name, tensor in released(ours).items()},
        tmp_path / "model.safetensors",
    )
    summary = write_import(plan(tmp_path, small_spec), tmp_path / "out", shard_bytes=20_000)
    files = {
        name: tuple(tmp_path / "out" / file for file in entry["files"])
        for name, entry in summary["modules"].items()
    }
    assert len(files["llm"]) > 2
    back = build_modules(small_spec, NAMES, seed=5).eval()
    load_modules(back, files)
    assert difference(ours, back) == ""


def test_every_fault_is_told_by_name_and_nothing_is_written(
    ours: nn.ModuleDict, small_spec: ModelSpec, tmp_path: Path
) -> None:
    tensors = {name: tensor.clone() for name, tensor in released(ours).items()}
    del tensors["model.norm.weight"]
    tensors["model.audio_encoder.adpter.bn2.running_mean"] = torch.zeros(32)
    tensors["model.mm_projector.0.weight"] = tensors["model.mm_projector.0.weight"].T.contiguous()
    tensors["model.mm_projector.2.bias"] = tensors["model.mm_projector.2.bias"].long()
    tensors["model.vision_tower.vision_tower.encoder.layers.0.attn.qkv.weight"] = torch.zeros(
        48, 15
    )
    tensors["model.audio_encoder.prompt_embeddings.weight"] = torch.zeros(25, 32)
    save_file(tensors, tmp_path / "model.safetensors")
    made = plan(tmp_path, small_spec)
    facts = (
        "model.norm.weight",
        "model.audio_encoder.adpter.bn2.running_mean",
        "model.mm_projector.0.weight",
        "64x32",
        "32x64",
        "model.mm_projector.2.bias",
        "I64",
        "attn.qkv.weight",
        "48x15",
        "48x16",
    )
    with raises_code(CheckpointError, "VT-WEIGHTS-038", *facts) as caught:
        write_import(made, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert [row.theirs for row in made.report.rows if row.status == "left out"] == [
        "model.audio_encoder.prompt_embeddings.weight"
    ]
    assert not plan(tmp_path, small_spec, ("audio_encoder",)).report.faults
    (fault,) = plan(tmp_path, small_spec, ("audio_adapter",)).report.faults
    assert "running_mean" in fault.theirs


def test_settings_that_no_shape_tells_are_compared(
    ours: nn.ModuleDict, small_spec: ModelSpec, recipe: Recipe, corpus: Path, tmp_path: Path
) -> None:
    export_vita(ours, recipe, corpus, tmp_path / "vita")
    config = json.loads((tmp_path / "vita" / "config.json").read_text())
    (tmp_path / "vita" / "config.json").write_text(
        json.dumps(config | {"rope_theta": 5.0, "num_attention_heads": 8})
    )
    facts = ("num_attention_heads is 8", "--set model.llm.num_heads=8", "rope_theta is 5.0")
    with raises_code(CheckpointError, "VT-WEIGHTS-038", *facts):
        write_import(plan(tmp_path / "vita", small_spec), tmp_path / "out")
    wrong = small_spec.model_copy(
        update={"vision": small_spec.vision.model_copy(update={"feature_scale": 1.0})}
    )
    with raises_code(CheckpointError, "VT-WEIGHTS-038", "model.vision.feature_scale", "1.0", "0.5"):
        write_import(plan(tmp_path / "vita", wrong, ("projector",)), tmp_path / "out")


@pytest.mark.parametrize("name", ["mm_projector.bin", "mm_projector/checkpoint-8.bin"])
def test_projector_files_of_a_stage_are_read(
    ours: nn.ModuleDict, small_spec: ModelSpec, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    torch.save(
        {
            f"base.model.mm_projector.{key}": tensor
            for key, tensor in ours["projector"].state_dict().items()
        },
        path,
    )
    back = imported(path, small_spec, tmp_path / "out")
    assert list(back) == ["projector"]
    assert difference(ours, back) == ""


def test_adapter_files_tell_that_they_never_hold_buffers(
    ours: nn.ModuleDict, small_spec: ModelSpec, tmp_path: Path
) -> None:
    state = {name: tensor for name, tensor in released(ours).items() if "adpter" in name}
    torch.save(state, tmp_path / "audio_adpter.bin")
    back = imported(tmp_path, small_spec, tmp_path / "out")  # the directory of a periodic save
    assert list(back) == ["audio_adapter"]
    assert difference(ours, back) == ""
    (note,) = json.loads((tmp_path / "out" / "ledger.json").read_text())["notes"]
    assert "buffers of the adapter" in note


@pytest.mark.parametrize("form", ["json", "kaldi"])
def test_the_speech_encoder_directory(
    ours: nn.ModuleDict, small_spec: ModelSpec, tmp_path: Path, form: str
) -> None:
    bins, count = small_spec.audio_encoder.num_mel_bins, 50.0
    frames = torch.randn(int(count), bins, dtype=torch.float64) * 3 + 2
    sums, squares = frames.sum(0).tolist(), (frames**2).sum(0).tolist()
    text = json.dumps({"mean_stat": sums, "var_stat": squares, "frame_num": count})
    if form == "kaldi":
        text = f" [\n  {' '.join(map(str, sums))} {count}\n  {' '.join(map(str, squares))} 0 ]"
    write_speech_directory(ours, tmp_path, text, statistics=False)
    back = imported(tmp_path, small_spec, tmp_path / "out")
    assert list(back) == ["audio_encoder", "audio_adapter"]
    cmvn = back["audio_encoder"].global_cmvn
    torch.testing.assert_close(cmvn.mean, frames.mean(0).float())
    torch.testing.assert_close(cmvn.istd, 1 / frames.std(0, correction=0).float())
    changed = dict(back["audio_encoder"].state_dict())
    original = ours["audio_encoder"].state_dict()
    assert {name for name in changed if not torch.equal(changed[name], original[name])} == {
        "global_cmvn.mean",
        "global_cmvn.istd",
    }


def test_a_speech_encoder_with_another_adapter_is_refused(
    ours: nn.ModuleDict, small_spec: ModelSpec, tmp_path: Path
) -> None:
    write_speech_directory(
        ours,
        tmp_path,
        '{"mean_stat": [0], "var_stat": [1], "frame_num": 1}',
        settings="model_conf: {norm: batch, adpter_type: subsampling}",
    )
    with raises_code(CheckpointError, "VT-WEIGHTS-038", "layer-config", "train.yaml"):
        write_import(plan(tmp_path, small_spec), tmp_path / "out")
    (tmp_path / "global_cmvn").write_text("[ 1 2 nan 0 ]")
    with raises_code(CheckpointError, "VT-WEIGHTS-053"):
        plan(tmp_path, small_spec)


@pytest.mark.parametrize("prefix", ["", "vision_model."])
def test_a_tower_in_its_original_names(
    ours: nn.ModuleDict, small_spec: ModelSpec, tmp_path: Path, prefix: str
) -> None:
    start = "model.vision_tower.vision_tower."
    tensors = {
        prefix + name.removeprefix(start): tensor.clone()
        for name, tensor in released(ours).items()
        if name.startswith(start)
    }
    save_file(
        tensors | ({"mlp1.0.bias": torch.zeros(3)} if prefix else {}),
        tmp_path / "model.safetensors",
    )
    source = open_source(tmp_path)
    assert (source.layout.name, source.terms) == ("internvit", "")
    assert difference(ours, imported(tmp_path, small_spec, tmp_path / "out")) == ""


def test_parts_in_the_names_of_transformers(
    ours: nn.ModuleDict, small_spec: ModelSpec, tmp_path: Path
) -> None:
    ours["vision"].model.save_pretrained(str(tmp_path / "tower"))
    ours["llm"].save_pretrained(str(tmp_path / "llm"), max_shard_size="20KB")
    assert (tmp_path / "llm" / "model.safetensors.index.json").is_file()
    for name, module in (("tower", "vision"), ("llm", "llm")):
        back = imported(tmp_path / name, small_spec, tmp_path / "out" / name)
        assert list(back) == [module]
        assert difference(nn.ModuleDict({module: ours[module]}), back) == ""
    config = json.loads((tmp_path / "llm" / "config.json").read_text())
    (tmp_path / "llm" / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    with raises_code(CheckpointError, "VT-WEIGHTS-038", "model_type is llama", "qwen2"):
        write_import(plan(tmp_path / "llm", small_spec), tmp_path / "again")


def test_the_command_asks_for_terms_once_and_prints_the_ledger(
    ours: nn.ModuleDict, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vita_train.recipe.load import dump_recipe

    monkeypatch.setenv("VITA_TRAIN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "small.yaml").write_text(dump_recipe(recipe))
    torch.save(
        {
            f"model.mm_projector.{key}": tensor
            for key, tensor in ours["projector"].state_dict().items()
        },
        tmp_path / "mm_projector.bin",
    )

    def run(out: str, *more: str) -> tuple[str, BaseException | None]:
        done = CliRunner().invoke(
            build_app(),
            [
                "model",
                "import",
                str(tmp_path / "mm_projector.bin"),
                "--out",
                str(tmp_path / out),
                "--recipe",
                str(tmp_path / "small.yaml"),
                *more,
            ],
        )
        return done.output, done.exception

    _, refused = run("one")
    assert isinstance(refused, UserError)
    assert "--accept-licence" in str(refused)
    output, error = run("one", "--accept-licence")
    assert error is None, error
    assert "projector" in output
    assert f"weights.projector={tmp_path / 'one'}" in output
    assert run("two")[1] is None  # accepted before
    assert json.loads((tmp_path / "one" / "import.json").read_text())["terms"].startswith(
        "VITA-1.5"
    )
    output, error = run(
        "three", "--set", "model.llm.hidden_size=64", "--set", "model.llm.num_heads=8"
    )
    assert isinstance(error, CheckpointError)
    assert "model.mm_projector.0.weight" in output
    assert (
        json.loads((tmp_path / "three.ledger.json").read_text())["counts"]["projector"]["shape"]
        == 4
    )


def test_the_links_of_the_hubs_cache_are_followed(
    ours: nn.ModuleDict, small_spec: ModelSpec, tmp_path: Path
) -> None:
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    save_file({name: tensor.clone() for name, tensor in released(ours).items()}, blobs / "123")
    (snapshot / "model.safetensors").symlink_to("../../blobs/123")
    assert difference(ours, imported(snapshot, small_spec, tmp_path / "out")) == ""


def test_an_import_replaces_an_import_and_nothing_else(
    ours: nn.ModuleDict, small_spec: ModelSpec, tmp_path: Path
) -> None:
    save_modules({"projector": ours["projector"]}, tmp_path)
    torch.save(
        {
            f"model.mm_projector.{key}": tensor
            for key, tensor in ours["projector"].state_dict().items()
        },
        tmp_path / "mm_projector.bin",
    )
    made = plan(tmp_path / "mm_projector.bin", small_spec)
    write_import(made, tmp_path / "out")
    write_import(made, tmp_path / "out")
    with raises_code(UserError, "VT-USE-129"):
        write_import(made, tmp_path)
    with raises_code(UserError, "VT-USE-118"):
        plan(tmp_path / "mm_projector.bin", small_spec, ("llm",))
    with raises_code(CheckpointError, "VT-WEIGHTS-052"):
        open_source(tmp_path)


def test_a_stage_starts_from_an_import(ours: nn.ModuleDict, recipe: Recipe, tmp_path: Path) -> None:
    torch.save(
        {
            f"model.mm_projector.{key}": tensor
            for key, tensor in ours["projector"].state_dict().items()
        },
        tmp_path / "mm_projector.bin",
    )
    write_import(plan(tmp_path / "mm_projector.bin", recipe.model), tmp_path / "out")
    named = recipe.model_copy(update={"weights": {"projector": str(tmp_path / "out")}})
    store = open_store(recipe.storage.root)
    write_final(store, "r/prepare", Manifest(kind="prepared", run="r", stage="prepare", digest="d"))
    inputs = find_inputs(Run(named, "r"), "1.1", ("projector",))
    started = load_inputs(named, inputs, ("projector",), ctc_vocab_size=0)
    assert difference(ours, started) == ""
    check_pretrained(named)
    wider = with_model(named, llm=recipe.model.llm.model_copy(update={"hidden_size": 64}))
    facts = ("projector: 0.weight is 32x64", "64x64")
    with raises_code(CheckpointError, "VT-WEIGHTS-062", *facts):
        check_pretrained(wider)
    trained = ModuleRef(stage="1.1", files=())
    found = [
        Manifest(kind="model", run="r", stage=ref.stage, digest="d", modules={"projector": ref})
        for ref in (trained, inputs.modules["projector"])
    ]
    assert (
        newest_modules(found, ["1.1"])
        == newest_modules(found[::-1], ["1.1"])
        == {"projector": trained}
    )


def with_model(recipe: Recipe, **changes: object) -> Recipe:
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=changes)})
