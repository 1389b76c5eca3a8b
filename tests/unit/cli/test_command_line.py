"""What every command has in common: quick help, one message for an error, exit codes that mean
something."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from vita_train.cli import main as main_module
from vita_train.cli.main import build_app, main
from vita_train.errors import EXIT_FAILED, EXIT_REFUSED, EXIT_RETRYABLE, StorageError

HEAVY = ("torch", "transformers", "numpy", "kfp", "boto3", "pyarrow", "matplotlib")


def run(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["vita-train", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["recipe", "--help"],
        ["recipe", "check", "tiny"],
        ["recipe", "check", "finetune_qwen"],
    ],
)
def test_answers_without_heavy_imports(arguments: list[str]) -> None:
    code = (
        "import sys; from vita_train.cli.main import main; sys.argv = ['vita-train', "
        "*sys.argv[1:]]\n"
        f"try: main()\nfinally: print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_command_is_described_and_stands_in_its_group() -> None:
    root = typer.main.get_command(build_app())
    groups = {
        name: command.commands
        for name, command in root.commands.items()
        if hasattr(command, "commands")
    }
    shown = {name for name, command in root.commands.items() if not command.hidden}
    assert shown - set(groups) == {
        "run",
        "train",
        "submit",
        "chat",
        "preflight",
        "plan",
        "report",
        "launch",
    }
    assert set(groups["model"]) == {
        "import",
        "export",
        "merge-lora",
        "evaluate",
        "caption",
        "judge",
        "pth_to_hf",
    }
    assert {"compile", "upload", "check", "janitor"} == set(groups["cluster"])
    assert set(groups) == {"recipe", "data", "model", "cluster"}
    for command in [
        *root.commands.values(),
        *(one for group in groups.values() for one in group.values()),
    ]:
        assert command.help


def test_mistakes_in_a_recipe_are_one_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nstagez: {}\nstages: {}\ndata: {source: {world: {kind: synth}}}\n")
    assert run("recipe", "check", str(path), monkeypatch=monkeypatch) == EXIT_REFUSED
    captured = capsys.readouterr()
    assert captured.out == ""
    assert (
        captured.err
        == f"error: {path}:2: unknown key 'stagez' (did you mean 'stages'?) [VT-RECIPE-050]\n"
    )


def test_unknown_command_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("trian", monkeypatch=monkeypatch) == EXIT_REFUSED


def failing(error: Exception) -> object:
    def app() -> None:
        raise error

    return lambda: app


def test_each_error_has_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        main_module, "build_app", failing(StorageError("is away", where="s3://b/k", remedy="wait"))
    )
    assert run(monkeypatch=monkeypatch) == EXIT_RETRYABLE
    assert capsys.readouterr().err == "error: s3://b/k: is away (wait)\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EADDRINUSE])
def test_faults_of_the_machine_have_a_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    monkeypatch.setattr(
        main_module, "build_app", failing(OSError(number, "Some reason", "/some/file"))
    )
    assert run(monkeypatch=monkeypatch) == EXIT_REFUSED
    shown = capsys.readouterr().err
    reason = "no space left on the disk" if number == errno.ENOSPC else "some reason"
    assert shown.startswith(f"error: /some/file: {reason} (")
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        ["data", "check"],
        ["data", "init"],
        ["data", "records"],
        ["data", "import-config"],
        ["run"],
        ["recipe", "check"],
    ],
)
def test_a_name_that_no_file_system_holds_is_refused(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*command, "é" * 200, monkeypatch=monkeypatch) == EXIT_REFUSED
    assert "éééé" in (told := capsys.readouterr().err)
    assert "traceback" not in told


def test_unexpected_errors_leave_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("VITA_TRAIN_CACHE", str(tmp_path))
    monkeypatch.setattr(main_module, "build_app", failing(ZeroDivisionError("division by zero")))
    assert run(monkeypatch=monkeypatch) == EXIT_FAILED
    shown = capsys.readouterr().err
    log = next((tmp_path / "logs").iterdir())
    assert shown.count("\n") == 1
    assert "ZeroDivisionError: division by zero" in shown
    assert str(log) in shown
    assert "Traceback" in log.read_text()


def test_recipe_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("recipe", "list", monkeypatch=monkeypatch) == 0
    listed = capsys.readouterr().out
    assert all(
        f"\n{name}  " in f"\n{listed}"
        for name in ("vita-1.5-7b".ljust(29), "finetune_qwen".ljust(29))
    )
    assert run("recipe", "show", "tiny", "--set", "seed=5", monkeypatch=monkeypatch) == 0
    assert "\nseed: 5\n" in capsys.readouterr().out
    assert (
        run(
            "recipe",
            "diff",
            "tiny",
            "tiny",
            "--set",
            "stages.2.1b.steps=7",
            "--set",
            "stages.3.2=null",
            monkeypatch=monkeypatch,
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert "-> 7" in next(line for line in lines if line.startswith("stages.2.1b.steps: "))
    assert all(line.startswith("stages.3.2.") for line in lines if "2.1b" not in line)
    assert run("recipe", "diff", "tiny", "tiny", monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out == ""
    assert run("recipe", "schema", monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out.startswith("{")


def test_the_end_of_a_file_is_no_request_to_abort(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def ended(*_: object, **__: object) -> None:
        raise EOFError("End of file")

    monkeypatch.setenv("VITA_TRAIN_CACHE", str(tmp_path))
    monkeypatch.setattr("vita_train.recipe.presets.preset_names", ended)
    monkeypatch.setattr("vita_train.recipe.load.load_recipe", ended)
    monkeypatch.setattr("sys.argv", ["vita-train", "recipe", "show", "tiny"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    assert "EOFError" in capsys.readouterr().err
