import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.helpers.errors import raises_code
from vita_train.errors import CheckpointError, UserError
from vita_train.models.build import build_modules
from vita_train.models.vision import load_vision
from vita_train.recipe.model import ModelSpec
from vita_train.recipe.schema import Recipe
from vita_train.recipe.towers.internvit import InternVitSpec
from vita_train.recipe.vision import ProjectorSpec
from vita_train.runs.final import write_final
from vita_train.runs.manifest import Manifest, ModuleRef
from vita_train.runs.run import Run
from vita_train.storage.base import FileRef
from vita_train.storage.digest import sha256_file
from vita_train.storage.factory import open_store
from vita_train.weights.compare import difference, probe_logits
from vita_train.weights.export import export_model, export_run, load_exported
from vita_train.weights.load import load_modules
from vita_train.weights.save import save_modules

NAMES = ("llm", "vision", "projector", "audio_encoder", "ctc_head", "audio_adapter")


def build(spec: ModelSpec, seed: int, names: tuple[str, ...] = NAMES) -> nn.ModuleDict:
    return build_modules(spec, names, ctc_vocab_size=7, seed=seed).eval()


def test_the_same_tensors_make_the_same_bytes(tmp_path: Path) -> None:
    code = (
        "import sys, torch; from pathlib import Path; from vita_train.weights.save import "
        "save_modules;"
        "save_modules({'m': {'b': torch.ones(3), 'a': torch.zeros(2, dtype=torch.int64)}}, "
        "Path(sys.argv[1]))"
    )
    for seed in ("1", "2", "3"):
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / seed)],
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
    assert len({(tmp_path / seed / "m.safetensors").read_bytes() for seed in ("1", "2", "3")}) == 1


def test_loading_gives_back_what_was_saved(small_spec: ModelSpec, tmp_path: Path) -> None:
    saved, other = build(small_spec, 1), build(small_spec, 2)
    paths = save_modules(saved, tmp_path)
    assert difference(saved, other)
    ledger = load_modules(other, paths)
    assert difference(saved, other) == ""
    assert list(ledger.modules) == list(NAMES)
    assert ledger.modules["ctc_head"].parameters == 7 * 16 + 7
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{name}.safetensors" for name in NAMES
    )


def test_large_modules_are_split_and_joined(small_spec: ModelSpec, tmp_path: Path) -> None:
    saved, other = build(small_spec, 1, ("llm",)), build(small_spec, 2, ("llm",))
    paths = save_modules(saved, tmp_path, shard_bytes=20_000)
    assert len(paths["llm"]) > 2
    assert paths["llm"][0].name == f"llm-00001-of-{len(paths['llm']):05d}.safetensors"
    load_modules(other, paths)
    assert difference(saved, other) == ""
    with raises_code(CheckpointError, "VT-WEIGHTS-062", "lm_head.weight", "97x32"):
        load_modules(other, {"llm": paths["llm"][:-1]})


def tied(spec: ModelSpec) -> ModelSpec:
    return spec.model_copy(update={"llm": spec.llm.model_copy(update={"tie_embeddings": True})})


def test_tied_weights_are_stored_once_and_load_tied(small_spec: ModelSpec, tmp_path: Path) -> None:
    saved, other = build(tied(small_spec), 1, ("llm",)), build(tied(small_spec), 2, ("llm",))
    paths = save_modules(saved, tmp_path)
    assert "lm_head.weight" not in load_file(paths["llm"][0])
    load_modules(other, paths)
    assert difference(saved, other) == ""
    assert other["llm"].lm_head.weight is other["llm"].model.embed_tokens.weight
    with raises_code(CheckpointError, "VT-WEIGHTS-062", "lm_head.weight", "97x32"):
        load_modules(build(small_spec, 3, ("llm",)), paths)


def test_a_gathered_state_dict_with_both_names_of_a_pair_loads(
    small_spec: ModelSpec, tmp_path: Path
) -> None:
    saved, other = build(tied(small_spec), 1, ("llm",)), build(tied(small_spec), 2, ("llm",))
    copies = {name: tensor.clone() for name, tensor in saved["llm"].state_dict().items()}
    assert "lm_head.weight" in copies
    load_modules(other, save_modules({"llm": copies}, tmp_path))
    assert difference(saved, other) == ""


def test_every_difference_is_told_and_nothing_is_loaded(
    small_spec: ModelSpec, tmp_path: Path
) -> None:
    paths = save_modules(build(small_spec, 1), tmp_path)
    changed = load_file(paths["projector"][0])
    changed["4.weight"] = changed.pop("2.bias")
    changed["0.weight"] = changed["0.weight"][:, :5].contiguous()
    changed["0.bias"] = changed["0.bias"].long()
    save_file(changed, paths["projector"][0])
    target = build(small_spec, 2)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    del paths["ctc_head"]
    facts = (
        "ctc_head",
        "projector: 4.weight 32",
        "projector: 0.weight is 32x5",
        "32x64",
        "projector: 0.bias is I64",
        "torch.float32",
        "projector: 2.bias 32",
    )
    with raises_code(CheckpointError, "VT-WEIGHTS-062", *facts):
        load_modules(target, paths)
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())


def test_floats_take_the_type_of_the_model(small_spec: ModelSpec, tmp_path: Path) -> None:
    paths = save_modules(build(small_spec, 1, ("projector",)), tmp_path)
    half = build_modules(small_spec, ["projector"], dtype=torch.bfloat16)
    load_modules(half, paths)
    assert torch.equal(
        half["projector"][0].weight, load_file(paths["projector"][0])["0.weight"].bfloat16()
    )


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def claiming_a_terabyte(data: bytes) -> bytes:
    return (1 << 40).to_bytes(8, "little") + data[8:]


def claiming_a_huge_tensor(data: bytes) -> bytes:
    header = json.dumps(
        {"0.weight": {"dtype": "F32", "shape": [1 << 38], "data_offsets": [0, 1 << 40]}}
    ).encode()
    return len(header).to_bytes(8, "little") + header + b"\0" * 64


def overlapping(data: bytes) -> bytes:
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    header = json.dumps({"0.weight": entry, "0.bias": entry}).encode()
    return len(header).to_bytes(8, "little") + header + b"\0" * 16


def of_another_kind(data: bytes) -> bytes:
    return b"PK\x03\x04" + b"\x80\x02}q\x00." * 20


def with_a_list_for_a_header(data: bytes) -> bytes:
    return (2).to_bytes(8, "little") + b"[]"


def deeply_nested(data: bytes) -> bytes:
    return (200_000).to_bytes(8, "little") + b"[" * 200_000


def with_negative_places(data: bytes) -> bytes:
    header = json.dumps(
        {"0.weight": {"dtype": "F32", "shape": [-4], "data_offsets": [16, 0]}}
    ).encode()
    return len(header).to_bytes(8, "little") + header


@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        claiming_a_terabyte,
        claiming_a_huge_tensor,
        overlapping,
        of_another_kind,
        with_a_list_for_a_header,
        deeply_nested,
        with_negative_places,
        lambda data: b"",
        lambda data: data + b"\0",
    ],
)
def test_hostile_files_are_refused_in_one_line(
    small_spec: ModelSpec, tmp_path: Path, damage
) -> None:
    modules = build(small_spec, 1, ("projector",))
    (path,) = save_modules(modules, tmp_path)["projector"]
    path.write_bytes(damage(path.read_bytes()))
    with raises_code(CheckpointError, "VT-WEIGHTS-061", str(path)) as caught:
        load_modules(modules, {"projector": path})
    assert "\n" not in str(caught.value)


def test_a_link_out_of_the_directory_is_refused(small_spec: ModelSpec, tmp_path: Path) -> None:
    modules = build(small_spec, 1, ("projector",))
    (path,) = save_modules(modules, tmp_path / "real")["projector"]
    (tmp_path / "run").mkdir()
    link = tmp_path / "run" / "projector.safetensors"
    link.symlink_to(path)
    with raises_code(CheckpointError, "VT-WEIGHTS-061"):
        load_modules(modules, {"projector": link})
    with raises_code(CheckpointError, "VT-WEIGHTS-060"):
        load_modules(modules, {"projector": tmp_path / "nothing.safetensors"})


def reference(path: Path) -> FileRef:
    return FileRef(uri=str(path), sha256=sha256_file(path), bytes=path.stat().st_size)


def test_weights_load_from_a_manifest(small_spec: ModelSpec, tmp_path: Path) -> None:
    saved, other = build(small_spec, 1), build(small_spec, 2)
    refs = {
        name: ModuleRef(stage="1.1", files=tuple(map(reference, paths)))
        for name, paths in save_modules(saved, tmp_path).items()
    }
    load_modules(other, Manifest(kind="model", run="r", stage="1.1", digest="0", modules=refs))
    assert difference(saved, other) == ""


def test_an_export_loads_back_to_the_same_model(
    small_spec: ModelSpec, recipe: Recipe, corpus: Path, tmp_path: Path
) -> None:
    modules = build(small_spec, 1)
    summary = export_model(modules, recipe, corpus, tmp_path / "model")
    shutil.rmtree(corpus)
    shutil.move(tmp_path / "model", tmp_path / "elsewhere")
    exported = load_exported(tmp_path / "elsewhere")
    assert torch.equal(probe_logits(exported.modules), probe_logits(modules))
    assert exported.spec == recipe.model
    assert exported.tokenizer("abc")["input_ids"]
    assert Path(exported.recipe.data.template).read_text().strip()
    assert exported.ctc_vocab is not None
    assert not exported.modules.training
    assert summary["modules"]["projector"]["parameters"] == 64 * 32 + 32 + 32 * 32 + 32
    assert str(tmp_path) not in (tmp_path / "elsewhere" / "config.json").read_text()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def with_corpus(recipe: Recipe, corpus: Path) -> Run:
    """Return the run ``demo`` of a recipe, with a corpus that was prepared elsewhere."""
    run = Run(recipe, "demo")
    run.corpus_dir.parent.mkdir(parents=True, exist_ok=True)
    run.corpus_dir.symlink_to(corpus)
    return run


def test_a_finished_run_is_exported_with_its_newest_weights(
    small_spec: ModelSpec, recipe: Recipe, corpus: Path, tmp_path: Path
) -> None:
    later = recipe.stages["1.1"].model_copy(update={"after": ["1.1"]})
    recipe = recipe.model_copy(update={"stages": recipe.stages | {"1.2": later}})
    store = open_store(recipe.storage.root)
    recipe = recipe.model_copy(
        update={"stages": recipe.stages | {"2.1b": later.model_copy(update={"after": ["1.2"]})}}
    )
    newest = {
        "1.1": build(small_spec, 1, ("llm", "projector")),
        "1.2": build(small_spec, 2, ("projector",)),
    }
    for stage, modules in newest.items():
        paths = save_modules(modules, tmp_path / stage)
        refs = {
            name: ModuleRef(stage=stage, files=tuple(map(reference, paths[name])))
            for name in modules
        }
        write_final(
            store,
            f"demo/{stage}",
            Manifest(kind="model", run="demo", stage=stage, digest=stage, modules=refs),
        )
        if stage == "1.1":  # a later stage that read the older projector
            write_final(
                store,
                "demo/2.1b",
                Manifest(kind="model", run="demo", stage="2.1b", digest="b", modules=refs),
            )
    files = export_run(with_corpus(recipe, corpus), tmp_path / "model")
    assert tmp_path / "model" / "projector.safetensors" in files
    exported = load_exported(tmp_path / "model").modules
    assert list(exported) == ["llm", "projector"]
    assert torch.equal(exported["projector"][0].weight, newest["1.2"]["projector"][0].weight)
    assert torch.equal(exported["llm"].lm_head.weight, newest["1.1"]["llm"].lm_head.weight)


def test_a_projector_without_weights_is_exported_too(
    small_spec: ModelSpec, recipe: Recipe, corpus: Path, tmp_path: Path
) -> None:
    spec = small_spec.model_copy(
        update={
            "projector": ProjectorSpec(kind="identity"),
            "vision": InternVitSpec(**{**small_spec.vision.model_dump(), "hidden_size": 8}),
        }
    )
    recipe = recipe.model_copy(update={"model": spec})
    modules = build(spec, 1, ("llm", "vision"))
    refs = {
        name: ModuleRef(stage="1.1", files=tuple(map(reference, paths)))
        for name, paths in save_modules(modules, tmp_path / "weights").items()
    }
    write_final(
        open_store(recipe.storage.root),
        "demo/1.1",
        Manifest(kind="model", run="demo", stage="1.1", digest="d", modules=refs),
    )
    export_run(with_corpus(recipe, corpus), tmp_path / "model")
    exported = load_exported(tmp_path / "model").modules
    assert list(exported) == ["llm", "vision", "projector"]
    assert difference(modules, nn.ModuleDict({name: exported[name] for name in modules})) == ""


def test_exporting_again_replaces_an_export_and_nothing_else(
    small_spec: ModelSpec, recipe: Recipe, corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    export_model(build(small_spec, 1), recipe, corpus, out)
    newer = build(small_spec, 2)
    export_model(newer, recipe, corpus, out)
    assert difference(newer, load_exported(out).modules) == ""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years")
    with raises_code(UserError, "VT-USE-129"):
        export_model(newer, recipe, corpus, precious)
    assert os.listdir(precious) == ["thesis.txt"]


def test_an_export_that_was_changed_is_refused(
    small_spec: ModelSpec, recipe: Recipe, corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    export_model(build(small_spec, 1), recipe, corpus, out)
    weights = out / "projector.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with raises_code(CheckpointError, "VT-WEIGHTS-033", "projector.safetensors"):
        load_exported(out)
    weights.unlink()
    with raises_code(CheckpointError, "VT-WEIGHTS-032"):
        load_exported(out)
    summary = json.loads((out / "export.json").read_text())
    summary["files"] = {"../corpus/ctc_vocab.json": {"bytes": 1, "sha256": ""}}
    (out / "export.json").write_text(json.dumps(summary))
    with raises_code(CheckpointError, "VT-WEIGHTS-031"):
        load_exported(out)


def test_the_original_internvit_names_are_understood(small_spec: ModelSpec, tmp_path: Path) -> None:
    tower = build(small_spec, 1, ("vision",))["vision"]
    ours = tower.model.state_dict()
    original = {
        "embeddings.class_embedding": ours["embeddings.cls_token"],
        "embeddings.position_embedding": ours["embeddings.position_embeddings"],
    }
    for part in ("weight", "bias"):
        original[f"embeddings.patch_embedding.{part}"] = ours[
            f"embeddings.patch_embeddings.projection.{part}"
        ]
        for k in range(2):
            new, old = f"encoder.layer.{k}.", f"encoder.layers.{k}."
            original[f"{old}attn.qkv.{part}"] = torch.cat(
                [ours[f"{new}attention.{letter}_proj.{part}"] for letter in "qkv"]
            )
            original[f"{old}attn.proj.{part}"] = ours[f"{new}attention.projection_layer.{part}"]
            original[f"{old}norm1.{part}"] = ours[f"{new}layernorm_before.{part}"]
            original[f"{old}norm2.{part}"] = ours[f"{new}layernorm_after.{part}"]
            original[f"{old}mlp.fc1.{part}"] = ours[f"{new}mlp.fc1.{part}"]
            original[f"{old}mlp.fc2.{part}"] = ours[f"{new}mlp.fc2.{part}"]
            original[f"{old}ls1"], original[f"{old}ls2"] = (
                ours[f"{new}lambda_1"],
                ours[f"{new}lambda_2"],
            )
    named = {
        f"model.vision_tower.vision_tower.{name}": tensor.clone()
        for name, tensor in original.items()
    }
    save_file(named | {"model.mm_projector.0.bias": torch.zeros(3)}, tmp_path / "model.safetensors")
    tiles = torch.randn(1, 3, 32, 32)
    assert torch.equal(load_vision(small_spec.vision, str(tmp_path)).eval()(tiles), tower(tiles))
    with raises_code(CheckpointError, "VT-WEIGHTS-082"):
        load_vision(small_spec.vision.model_copy(update={"hidden_size": 32}), str(tmp_path))


@pytest.mark.parametrize(
    "name", ["projector", "audio_encoder", "ctc_head", "codec", "speech_decoder"]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_by_name(
    small_spec: ModelSpec, tmp_path: Path, name: str, value: float
) -> None:
    saved = build(small_spec, 1, (name,))
    tensor = next(
        key for key, tensor in saved[name].state_dict().items() if tensor.is_floating_point()
    )
    saved[name].state_dict()[tensor].view(-1)[0] = value
    with pytest.raises(CheckpointError) as caught:
        load_modules(build(small_spec, 2, (name,)), save_modules(saved, tmp_path))
    assert f"{name}.{tensor}" in caught.value.what
    assert f"{name}.safetensors" in caught.value.where


def test_a_tower_with_values_that_are_not_finite_is_refused(
    small_spec: ModelSpec, tmp_path: Path
) -> None:
    tower = build(small_spec, 1, ("vision",))["vision"]
    stored = {
        f"vision_tower.{key}": tensor.clone() for key, tensor in tower.model.state_dict().items()
    }
    name = sorted(stored)[0]
    stored[name].view(-1)[0] = float("nan")
    save_file(stored, tmp_path / "model.safetensors")
    with raises_code(CheckpointError, "VT-WEIGHTS-007") as caught:
        load_vision(small_spec.vision, str(tmp_path))
    assert name in caught.value.what
