"""The table of AuroraCap's steps: each stands there, with tests and commands that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from vita_train.cli.main import build_app
from vita_train.data.catalogue.load import load_catalogue

ROOT = Path(__file__).resolve().parents[2]
ROWS = {
    step: (here, tests)
    for step, here, tests in re.findall(
        r"^\| A(\d+) \|[^|]*\|([^|]*)\|([^|]*)\|[^|]*\|$",
        (ROOT / "docs" / "reference" / "auroracap.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
}


def test_every_step_has_its_row() -> None:
    assert [int(step) for step in ROWS] == list(range(1, 27))


@pytest.mark.parametrize("step", ROWS)
def test_the_tests_of_a_step_exist(step: str) -> None:
    found = re.findall(r"`(tests/[^`:]+)(?:::(\w+))?`", ROWS[step][1])
    assert found
    for path, name in found:
        text = (ROOT / path).read_text(encoding="utf-8")
        assert not name or re.search(rf"^def {name}\(", text, re.MULTILINE), name


@pytest.mark.parametrize("step", ROWS)
def test_the_commands_of_a_step_exist(step: str) -> None:
    groups = typer.main.get_command(build_app()).commands  # type: ignore[attr-defined]
    for group, words in re.findall(r"`(data|model) ([^`]+)`", ROWS[step][0]):
        command, *rest = words.split()
        assert command in groups[group].commands
        if command == "tools":
            assert rest[0] in groups[group].commands["tools"].commands
        if command == "fetch":
            assert rest[0] in load_catalogue().entries
