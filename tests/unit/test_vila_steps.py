"""The table of VILA's steps: each stands there, with commands that exist and tests that name it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from vita_train.cli.main import build_app
from vita_train.data.catalogue.load import load_catalogue
from vita_train.data.formats import FORMATS

ROOT = Path(__file__).resolve().parents[2]
ROWS = {
    step: (here, tests)
    for step, here, tests in re.findall(
        r"^\| V(\d+) \|[^|]*\|([^|]*)\|([^|]*)\|[^|]*\|$",
        (ROOT / "docs" / "reference" / "vila.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
}


def test_every_step_has_its_row() -> None:
    assert [int(step) for step in ROWS] == list(range(1, 25))


@pytest.mark.parametrize("step", ROWS)
def test_the_tests_of_a_step_name_it(step: str) -> None:
    paths = re.findall(r"`(tests/[^`]+)`", ROWS[step][1])
    assert paths
    for path in paths:
        text = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(rf"^def test_(v\d+_)*v{step}_", text, re.MULTILINE), path


@pytest.mark.parametrize("step", ROWS)
def test_the_commands_of_a_step_exist(step: str) -> None:
    group = typer.main.get_command(build_app()).commands["data"]  # type: ignore[attr-defined]
    for command in re.findall(r"`data ([^`]+)`", ROWS[step][0]):
        first, *rest = command.split()
        assert first in group.commands, command
        if first == "rewrite":
            assert rest[0] in FORMATS
        if first in ("fetch", "inventory") and rest:
            assert rest[0] in load_catalogue().entries


def test_every_format_of_the_last_step_is_listed() -> None:
    named = set(re.findall(r"`(?:data rewrite )?(\w+)`", ROWS["24"][0]))
    others = {"coyo", "mmc4", "m3it", "sharegpt4v", "cambrian_1375k", "cambrian_doc_1275k"}
    assert named == set(FORMATS) - others
