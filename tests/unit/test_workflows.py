"""The workflows of the public repository are valid, as far as actionlint sees."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(
    shutil.which("actionlint") is None,
    reason="go install github.com/rhysd/actionlint/cmd/actionlint@v1.7.12",
)
def test_actionlint_finds_nothing() -> None:
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    assert workflows
    done = subprocess.run(
        ["actionlint", *map(str, workflows)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_action_is_named_by_its_commit() -> None:
    used = [
        (path.name, line.strip())
        for path in (ROOT / ".github" / "workflows").glob("*.yml")
        for line in path.read_text().splitlines()
        if "uses:" in line
    ]
    assert used
    assert [
        one for one in used if not re.search(r"uses: [\w./-]+@[0-9a-f]{40} # v[\d.]+$", one[1])
    ] == []


def test_bases_are_named_by_whole_digests() -> None:
    for line in (ROOT / "images" / "bases").read_text().splitlines():
        if not line.startswith("#"):
            assert re.fullmatch(r"(BASE|BUILDER)_IMAGE\.\w+ +\S+:\S+ +sha256:[0-9a-f]{64}", line)
