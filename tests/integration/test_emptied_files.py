"""A full disk or a power cut leaves files empty or cut: every command goes on, or says in one line
what to do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.helpers.family_world import family_recipe, talk
from vita_train.cli.main import build_app
from vita_train.errors import RecipeError, VitaError
from vita_train.pipeline.steps import (
    evaluate_step,
    export_step,
    fetch_step,
    prepare_step,
    report_step,
)
from vita_train.recipe.load import dump_recipe
from vita_train.runs.run import Run
from vita_train.training.stage import run_stage

#: The longest asks a command some two hundred times.
pytestmark = pytest.mark.timeout(3600)

CUTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step with everything that a run has; returns its directory, its recipe lies
    beside its root."""
    home = tmp_path_factory.mktemp("emptied")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITA_TRAIN_CACHE", str(home / "cache"))
        recipe = family_recipe(
            "qwen2p5_instruct",
            f"data.source.own.registry={talk(home)}",
            f"storage.root={home / 'runs'}",
            "stages.2.2.steps=1",
        )
        (home / "recipe.yaml").write_text(dump_recipe(recipe))
        run = Run(recipe, "mine")
        run.write_recipe()
        fetch_step(run)
        prepare_step(run)
        run_stage(run, "2.2")
        for step in (evaluate_step, export_step, report_step):
            step(run)
        _ask("preflight", home)
    return run.dir


def _ask(command: str, home: Path) -> None:
    """Do what a command does; the steps in this process, as `run` does them in others."""
    if command == "steps":
        run = Run(
            family_recipe(
                "qwen2p5_instruct",
                f"data.source.own.registry={home / 'registry.json'}",
                f"storage.root={home / 'runs'}",
                "stages.2.2.steps=1",
            ),
            "mine",
        ).remembered()
        for step in (fetch_step, prepare_step, evaluate_step, export_step, report_step):
            step(run)
        return
    place = str(home / "runs" / "mine")
    arguments = {
        "preflight": [str(home / "recipe.yaml"), "--run", "mine"],
        "report": [place],
        "chat": ["--checkpoint", place, "--text", "colour?", "--max-tokens", "1"],
        "chat export": [
            "--checkpoint",
            f"{place}/export/model",
            "--text",
            "colour?",
            "--max-tokens",
            "1",
        ],
    }
    done = CliRunner().invoke(build_app(), [command.split()[0], *arguments[command]])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception


@pytest.mark.parametrize(
    ("command", "cut", "every"),
    [
        ("report", "half", 6),
        *(
            pytest.param(command, cut, 1, marks=pytest.mark.slow)
            for command in ("report", "preflight", "chat", "chat export", "steps")
            for cut in CUTS
        ),
    ],
)
def test_no_file_of_a_run_ends_a_command_in_a_traceback(
    finished: Path, command: str, cut: str, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = finished.parent.parent
    monkeypatch.setenv("VITA_TRAIN_CACHE", str(home / "cache"))
    kept = home / "kept"
    if not kept.exists():
        shutil.copytree(finished, kept)
    names = sorted(path.relative_to(kept) for path in kept.rglob("*") if path.is_file())
    assert len(names) > 30
    faults = []
    for name in names[::every]:
        shutil.rmtree(finished)
        shutil.copytree(kept, finished)
        (finished / name).write_bytes(CUTS[cut]((kept / name).read_bytes()))
        try:
            _ask(command, home)
        except VitaError as error:
            told = "add it" in str(error) if isinstance(error, RecipeError) else error.remedy
            if not told:
                faults.append(f"{name}: no remedy: {error}")
        except Exception as error:
            faults.append(f"{name}: {type(error).__name__}: {error}")
    assert not faults, "\n".join(faults)
