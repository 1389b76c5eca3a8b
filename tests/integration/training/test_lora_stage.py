"""Stages that train adapters, over quantised weights and over each other, as whole stages of a
run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from torch import nn
from typer.testing import CliRunner

from tests.helpers.errors import raises_code
from tests.helpers.evaluation_world import small_corpus, small_recipe
from vita_train.cli.model import merge_lora as command
from vita_train.errors import CheckpointError, UserError
from vita_train.models.language.decoder import build_llm, load_llm
from vita_train.recipe.load import dump_recipe
from vita_train.recipe.schema import Recipe, StorageSpec
from vita_train.runs.manifest import Manifest
from vita_train.runs.run import Run
from vita_train.storage.base import local_path
from vita_train.training.inputs import find_inputs, stage_digest
from vita_train.training.stage import run_stage
from vita_train.weights.compare import probe_logits
from vita_train.weights.export import export_run, load_exported
from vita_train.weights.formats.exporting import export_run_as
from vita_train.weights.merge import merge_stage
from vita_train.weights.module_refs import load_refs
from vita_train.weights.newest import load_newest

RUN = "r"
CLI = (sys.executable, "-m", "vita_train.cli.main")
pytestmark = pytest.mark.timeout(1200)


def _recipe(root: Path, **changes: Any) -> Recipe:
    """A full stage, adapters over 4 bit, adapters over these over 8 bit, and a full stage on
    top."""
    common = {
        "objective": "next_token",
        "steps": 4,
        "checkpoint_interval": 2,
        "batch": {"global_batch_size": 2, "seq_len": 96},
        "eval": {"batches": 1, "max_samples": 1},
    }
    lora = {"rank": 2, "alpha": 8, "dropout": 0.1}
    text = {**common, "data": {"textqa": 1.0}}
    stages = {
        "0.llm": {**text, "trainable": {"llm": 1e-3}, "steps": 2},
        "0.vision": {
            **common,
            "objective": "caption_words",
            "data": {"caption": 1.0},
            "trainable": {"vision": 1e-3},
            "options": {"min_count": 1},
            "steps": 1,
        },
        "1.1": {
            **common,
            "data": {"caption": 1.0},
            "trainable": {"projector": 1e-3},
            "steps": 1,
            "quantize": {"kind": "int8"},
        },
        "1.2": {
            **common,
            "data": {"caption": 1.0},
            "trainable": {"llm": 1e-2, "projector": 1e-3},
            "lora": lora,
            "quantize": {"kind": "nf4"},
        },
        "1.3": {
            **common,
            "data": {"caption": 1.0},
            "trainable": {"llm": 1e-2, "vision": 1e-2},
            "lora": {**lora, "bias": "all", "modules": ["llm", "vision"]},
            "steps": 2,
        },
        "2.2": {**text, "trainable": {"llm": 1e-3}, "steps": 1},
    }
    return small_recipe(
        storage=StorageSpec(root=str(root)).model_dump(), stages={**stages, **changes}
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is done."""
    root = tmp_path_factory.mktemp("runs")
    recipe = _recipe(root)
    corpus = small_corpus(root / RUN / "prepare", recipe, records=8)
    assert corpus.path == Run(recipe, RUN).corpus_dir
    Run(recipe, RUN).commit(
        "prepare", Manifest(kind="prepared", run=RUN, stage="prepare", digest="d")
    )
    for stage in recipe.stages:
        run_stage(Run(recipe, RUN), stage)
    (root / RUN / "recipe.yaml").write_text(dump_recipe(recipe))
    return root


def _manifest(root: Path, stage: str) -> Manifest:
    found = Run(_recipe(root), RUN).final(stage)
    assert found is not None
    return found


def _files(root: Path, stage: str, module: str) -> list[Path]:
    return [local_path(file.uri) for file in _manifest(root, stage).modules[module].files]


def _logits(llm: Any) -> torch.Tensor:
    ids = torch.randint(0, 400, (2, 16), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        found: torch.Tensor = llm.eval()(input_ids=ids).logits
    return found


def test_the_stage_commits_adapter_and_module_side_by_side(root: Path) -> None:
    manifest = _manifest(root, "1.2")
    names = {
        name: [Path(file.uri).name for file in ref.files]
        for name, ref in manifest.modules.items()
        if ref.stage == "1.2"
    }
    assert names == {
        "llm": ["adapter_config.json", "adapter_model.safetensors"],
        "projector": ["projector.safetensors"],
    }
    assert manifest.modules["llm"].base == _manifest(root, "0.llm").modules["llm"]
    assert manifest.modules["projector"].base is None
    lineage = manifest.lineage
    assert {name.partition(".")[0] for name in lineage["trained_names"]} == {"llm", "projector"}
    assert all(".lora_" in name for name in lineage["trained_names"] if name.startswith("llm."))
    # q, k, v, o of 32 (k and v to 16), gate, up and down to 64: rank 2 in 2 layers
    assert lineage["trained"]["llm"] == 2 * 2 * (64 + 48 + 48 + 64 + 3 * 96)
    plain = sum(parameter.numel() for parameter in build_llm(_recipe(root).model.llm).parameters())
    assert lineage["frozen"]["llm"] == plain


def test_plain_peft_gives_what_the_next_stage_starts_from(root: Path) -> None:
    from peft import PeftModel

    recipe = _recipe(root)
    refs = {"llm": _manifest(root, "1.3").modules["llm"]}
    plain: Any = load_refs(recipe.model, {"llm": _manifest(root, "0.llm").modules["llm"]})["llm"]
    before = _logits(plain)
    for stage in ("1.2", "1.3"):
        plain = PeftModel.from_pretrained(
            plain, _files(root, stage, "llm")[0].parent
        ).merge_and_unload()
    loaded = load_refs(recipe.model, refs)["llm"]
    assert torch.allclose(_logits(loaded), _logits(plain), atol=1e-5)
    assert not torch.allclose(_logits(loaded), before, atol=1e-3)


def test_quantised_training_leaves_the_base_in_full_precision(root: Path) -> None:
    modules = load_refs(_recipe(root).model, {"llm": _manifest(root, "1.2").modules["llm"]})
    base = load_refs(_recipe(root).model, {"llm": _manifest(root, "0.llm").modules["llm"]})[
        "llm"
    ].state_dict()
    changed = {
        name
        for name, tensor in modules["llm"].state_dict().items()
        if not torch.equal(tensor, base[name])
    }
    assert len(changed) == 2 * 7
    for name in changed:  # a change of the adapter's rank, on top of exactly the base
        assert (
            torch.linalg.matrix_rank(modules["llm"].state_dict()[name] - base[name], atol=1e-6) <= 2
        )


def test_a_stage_goes_on_exactly_after_it_was_stopped(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "runs"
    shutil.copytree(root, copy)
    for path in (copy / RUN / "1.2").rglob("final.json"):
        path.unlink()
    (
        copy / RUN / "1.2" / "committed" / "step-00000004.json"
    ).unlink()  # as if it had ended after step 2
    for stage in ("0.llm", "0.vision", "1.1"):  # files are named by absolute paths
        path = copy / RUN / stage / "final.json"
        path.write_text(path.read_text().replace(str(root), str(copy)))
    run_stage(Run(_recipe(copy), RUN), "1.2")
    events = [
        (place / RUN / "1.2" / "events.jsonl").read_text().splitlines() for place in (root, copy)
    ]
    losses = [
        {row["step"]: row["loss"] for row in map(json.loads, lines) if "loss" in row}
        for lines in events
    ]
    assert losses[0] == losses[1]
    assert sorted(losses[0]) == [1, 2, 3, 4]
    assert [path.read_bytes() for path in _files(copy, "1.2", "llm")] == [
        path.read_bytes() for path in _files(root, "1.2", "llm")
    ]


def test_the_state_of_a_stopped_stage_holds_no_base(root: Path) -> None:
    (state,) = (root / RUN / "1.2").glob("attempt-*/step-00000004/state.pt")
    children = torch.load(state, weights_only=True)["children"]
    assert set(children) == {"llm", "projector"}
    assert all(".lora_" in name for name in children["llm"])


def test_an_adapter_is_not_merged_into_other_weights(root: Path) -> None:
    ref = _manifest(root, "1.2").modules["llm"]
    other = ref.model_copy(update={"base": _manifest(root, "2.2").modules["llm"]})
    with raises_code(CheckpointError, "VT-WEIGHTS-018", "adapter_model.safetensors"):
        load_refs(_recipe(root).model, {"llm": other})
    skipped = _manifest(root, "1.3").modules["llm"].model_copy(update={"base": ref.base})
    with raises_code(CheckpointError, "VT-WEIGHTS-018"):
        load_refs(_recipe(root).model, {"llm": skipped})


def test_everything_that_determines_an_adapter_is_in_the_stage_s_digest(root: Path) -> None:
    recipe = _recipe(root)
    spec = recipe.stages["1.2"].model_dump(mode="json")
    variants = [
        spec,
        {**spec, "lora": {**spec["lora"], "rank": 3}},
        {**spec, "quantize": None},
        {**spec, "quantize": {**spec["quantize"], "double": False}},
    ]
    inputs = find_inputs(Run(recipe, RUN), "1.2", ["llm", "vision"])
    digests = {
        stage_digest(_recipe(root, **{"1.2": variant}), "1.2", inputs, ["llm", "vision"])
        for variant in variants
    }
    assert len(digests) == 4


def test_merge_lora_writes_weights_that_any_tool_reads(root: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    command.register(app)
    out = tmp_path / "merged"
    result = CliRunner().invoke(app, [str(root / RUN), "--out", str(out), "--stage", "1.2"])
    assert result.exit_code == 0, result.output
    told = json.loads((out / "merge.json").read_text())
    assert 0 < told["difference"] < 1e-5
    assert f"change by {told['difference']:.3g} at most" in result.output
    assert sorted(path.name for path in out.iterdir()) == [
        "llm",
        "merge.json",
        "projector.safetensors",
    ]
    wanted = load_refs(_recipe(root).model, {"llm": _manifest(root, "1.2").modules["llm"]})["llm"]
    found = load_llm(_recipe(root).model.llm, str(out / "llm"))
    assert torch.equal(_logits(found), _logits(wanted))
    with raises_code(UserError, "VT-USE-126"):
        merge_stage(Run(_recipe(root), RUN), out)
    with raises_code(UserError, "VT-USE-127", "0.llm"):
        merge_stage(Run(_recipe(root), RUN), tmp_path / "other", stage="0.llm")


@pytest.mark.parametrize(
    "command", [["merge-lora", "--stage", "1.2"], ["merge-lora"], ["export", "--to", "adapter"]]
)
def test_libraries_say_nothing_of_their_own(root: Path, tmp_path: Path, command: list[str]) -> None:
    """What a user reads is one line of ours; tools read it too."""
    done = subprocess.run(
        [*CLI, "model", *command, str(root / RUN), "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    assert line.startswith(str(tmp_path / "out"))


def test_merging_bound_counts_modules_of_every_kind(root: Path, tmp_path: Path) -> None:
    merged = merge_stage(Run(_recipe(root), RUN), tmp_path / "merged")
    assert merged.stage == "1.3"
    assert merged.difference <= 1e-5
    assert merged.rounded == pytest.approx(merged.difference, abs=1e-6)  # float32 rounds nothing
    assert {path.name for path in (tmp_path / "merged").iterdir()} == {
        "llm",
        "merge.json",
        "vision.safetensors",
    }


def test_an_adapter_exported_alone_is_one_that_plain_peft_loads(root: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    recipe, out = _recipe(root), tmp_path / "adapter"
    export_run_as(Run(recipe, RUN), out, "adapter")
    told = json.loads((out / "export.json").read_text())
    assert told["stage"] == "1.3"
    assert told["modules"] == []
    assert told["adapters"]["llm"]["weights"] == "stage 1.2 with its adapter merged"
    assert sorted(told["files"]) == [
        f"{module}/adapter_{file}"
        for module in ("llm", "vision")
        for file in ("config.json", "model.safetensors")
    ]
    below: Any = load_refs(recipe.model, {"llm": _manifest(root, "1.2").modules["llm"]})["llm"]
    wanted = load_refs(recipe.model, {"llm": _manifest(root, "1.3").modules["llm"]})["llm"]
    assert torch.allclose(
        _logits(PeftModel.from_pretrained(below, out / "llm")), _logits(wanted), atol=1e-5
    )


def test_evaluation_and_export_need_not_know(root: Path, tmp_path: Path) -> None:
    lora_last = _recipe(root)
    lora_last = lora_last.model_copy(
        update={"stages": {name: spec for name, spec in lora_last.stages.items() if name != "2.2"}}
    )
    newest = load_newest(Run(lora_last, RUN))
    refs = _manifest(root, "1.3").modules
    wanted = load_refs(
        lora_last.model, {name: refs[name] for name in ("llm", "vision", "projector")}
    )
    assert torch.equal(
        probe_logits(newest), probe_logits(nn.ModuleDict(dict(wanted.items())).eval())
    )
    export_run(Run(lora_last, RUN), tmp_path / "model")
    assert torch.equal(
        probe_logits(load_exported(tmp_path / "model").modules), probe_logits(newest)
    )
