"""``vita-train train --dry-run``: the recipe, and what is told beside it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.helpers.errors import raises_code
from vita_train.cli.main import main
from vita_train.cli.run.train import _check_resumed, _trained_before
from vita_train.compat.vita.build import public_run
from vita_train.compat.vita.scripts import script_words
from vita_train.errors import EXIT_REFUSED, UserError
from vita_train.recipe.load import load_recipe
from vita_train.runs.manifest import Manifest, ModuleRef
from vita_train.runs.run import Run

WORDS = script_words("finetune_qwen")


def train(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["vita-train", "train", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


def test_a_dry_run_prints_the_recipe_and_does_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train(monkeypatch, *WORDS, "--dry-run", "--save", "mine.yaml", "--set", "seed=3") == 0
    shown = capsys.readouterr()
    recipe = public_run(WORDS, settings=["seed=3"]).recipe
    assert load_recipe(shown.out) == recipe
    # In a file, the registry's path is relative to it.
    (tmp_path / "shown.yaml").write_text(shown.out)
    assert load_recipe("shown.yaml") == load_recipe(str(tmp_path / "mine.yaml"))
    (tmp_path / "shown.yaml").unlink()
    assert "note: --lazy_preprocess is ignored by the public code" in shown.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--learnin_rate", "1"], "unknown flag --learnin_rate, did you mean --learning_rate?"),
        (
            ["--tune_mm_mlp_adapter", "--freeze_mm_mlp_adapter", "--unfreeze_vision_tower"],
            "--tune_mm_mlp_adapter True contradicts",
        ),
        (["--save", "none/mine.yaml"], "the recipe cannot be written: No such file or directory"),
        (["--set", "sead=3"], "unknown key 'sead'"),
    ],
)
def test_mistakes_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train(monkeypatch, *WORDS, "--dry-run", *words) == EXIT_REFUSED
    shown = capsys.readouterr()
    errors = [line for line in shown.err.splitlines() if not line.startswith("note: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert shown.out == ""


def test_contradictions_as_the_public_code_takes_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        *WORDS,
        "--tune_mm_mlp_adapter",
        "--tune_audio_mlp_adapter",
        "--dry-run",
        "--like-public",
    ]
    assert train(monkeypatch, *words) == 0
    recipe = load_recipe(capsys.readouterr().out)
    assert recipe.stages["2.1b"].trainable == {"vision": 2e-6, "audio_adapter": 2e-5}


def test_the_flags_are_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(monkeypatch, "--flags") == 0
    assert "| `tune_mm_mlp_adapter` | `False` |" in capsys.readouterr().out


def test_a_run_goes_on_from_its_own_settings_and_others_are_listed(tmp_path: Path) -> None:
    def run_of(*settings: str) -> Run:
        return Run(load_recipe("smoke", [f"storage.root={tmp_path}", *settings]), "m")

    run_of().write_recipe()
    checkpoint = tmp_path / "m" / "1.1"
    checkpoint.mkdir()
    _check_resumed(run_of(), "1.1", str(checkpoint))
    _check_resumed(run_of("launch.workers=3"), "1.1", str(checkpoint))  # how, not what
    _check_resumed(run_of("stages.1.2.steps=9"), "1.1", str(checkpoint))  # another stage
    with raises_code(UserError, "VT-USE-242", "trainable.projector: 0.001 -> 0.002"):
        _check_resumed(run_of("stages.1.1.trainable.projector=0.002"), "1.1", str(checkpoint))
    with raises_code(UserError, "VT-USE-238", "gone", "--output_dir"):
        _check_resumed(run_of(), "1.1", str(tmp_path / "m" / "gone"))


def test_what_a_run_left_is_found_by_its_folder(tmp_path: Path) -> None:
    recipe = load_recipe("smoke", [f"storage.root={tmp_path}", "weights.vision=tower"])
    run = Run(recipe, "m")
    run.write_recipe()
    modules = {
        "projector": ModuleRef(stage="1.1", files=()),
        "llm": ModuleRef(stage="0.llm", files=()),
    }
    manifest = Manifest(kind="model", run="m", stage="1.1", digest="d", modules=modules)
    run.commit("1.1", manifest)
    found = _trained_before(str(tmp_path / "m"))
    assert found is not None
    assert found.modules == {"vision": "tower", "projector": f"{tmp_path}/m/1.1"}
    assert _trained_before(str(tmp_path)) is None
