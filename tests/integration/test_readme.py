"""README's commands work: the quick ones are executed, the others are parsed by the command line
itself."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from vita_train.cli.main import build_app
from vita_train.pipeline.local.ending import chat_command
from vita_train.runs.manifest import Manifest
from vita_train.storage.base import FileRef

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ("README.md", "CONTRIBUTING.md")
#: Commands that answer within seconds; the rest train.
QUICK = ("recipe", "preflight")


def _commands(document: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


ALL = [command for document in DOCUMENTS for command in _commands(document)]
VITA = sorted({command for command in ALL if "vita-train" in command.split()[0]})


def _parse(words: list[str]) -> Any:
    """Read a command line without running it; the parser exits when it does not understand."""
    group: Any = typer.main.get_command(build_app())
    context = group.make_context("vita-train", list(words))
    name, command, rest = group.resolve_command(context, words)
    return command.make_context(name, rest, parent=context)


def test_readme_starts_with_its_two_commands() -> None:
    assert _commands("README.md")[:2] == ["make demo", "make test"]


@pytest.mark.parametrize(
    "command", sorted({command for command in ALL if command.startswith("make ")})
)
def test_make_knows_the_verb(command: str) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    done = subprocess.run(
        [*shlex.split(command), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_make_help_lists_at_most_eight_verbs_beside_itself() -> None:
    verbs = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert "help" in verbs
    assert len(verbs) <= 9


@pytest.mark.parametrize("command", VITA)
def test_command_is_one_that_vita_train_knows(command: str) -> None:
    _parse(shlex.split(command)[1:])


@pytest.mark.parametrize("command", [command for command in VITA if command.split()[1] in QUICK])
def test_quick_command_succeeds(command: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "vita_train.cli.main", *shlex.split(command)[1:]]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize(
    ("export", "checkpoint"),
    [
        ("/runs of mine/tiny/export/model", "/runs of mine/tiny/export/model"),
        (
            "s3://bucket/runs/tiny/export/model",
            "s3://bucket/runs/tiny",
        ),  # chat reads exports from disk only
    ],
)
def test_chat_line_that_a_run_prints_is_understood(export: str, checkpoint: str) -> None:
    files = {"export.json": FileRef(uri=f"{export}/export.json", sha256="0", bytes=1)}
    line = chat_command(
        Manifest(kind="export", run="tiny", stage="export", digest="d", files=files)
    )
    context = _parse(shlex.split(line)[1:])
    assert context.params["checkpoint"] == checkpoint


def test_links_lead_somewhere() -> None:
    for document in DOCUMENTS:
        targets = re.findall(r"\]\(([^)#]+)\)", (ROOT / document).read_text(encoding="utf-8"))
        missing = [
            target for target in targets if "://" not in target and not (ROOT / target).exists()
        ]
        assert not missing, f"{document} links to {missing}"
