"""The locks fit what is asked for, hold hashes only, and the check says what does not."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
LOCKED = (
    "pyproject.toml",
    "requirements.lock",
    "images/build.lock",
    "images/build-requirements.txt",
    *(
        f"images/{kind}/requirements.{end}"
        for kind in ("launcher", "data", "trainer")
        for end in ("lock", "txt")
    ),
)


def _check(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(root / "tools" / "lock"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_committed_locks_fit() -> None:
    done = _check(ROOT)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "pyproject.toml",
            lambda text: text.replace('"tenacity>=9"', '"tenacity>=9", "brand-new>=1"'),
            "requirements.lock: brand-new is not pinned",
        ),
        (
            "pyproject.toml",
            lambda text: text.replace('"tenacity>=9"', '"tenacity>=99"'),
            "is not what is asked for",
        ),
        (
            "images/launcher/requirements.txt",
            lambda text: text + "numpy\n",
            "images/launcher/requirements.lock: numpy is not pinned",
        ),
        (
            "requirements.lock",
            lambda text: "\n".join(
                line for line in text.splitlines() if "--hash" not in line or "numpy" in line
            ),
            "has no hash",
        ),
        (
            "images/data/requirements.lock",
            lambda text: text.replace("--hash=sha256:a", "--hash=sha256:b"),
            "is not what requirements.lock pins",
        ),
        (
            "requirements.lock",
            lambda text: text + "git+https://example.org/x\n",
            "neither a pinned version nor a hash",
        ),
    ],
)
def test_the_check_says_what_does_not_fit(
    tmp_path: Path, file: str, change: Callable[[str], str], message: str
) -> None:
    for name in LOCKED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    before = (tmp_path / file).read_text()
    assert change(before) != before
    (tmp_path / file).write_text(change(before))
    done = _check(tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_is_installed_without_hashes() -> None:
    """Every installation by pip insists on hashes, or can fetch nothing; flash-attn is what its
    user names."""
    for path in (ROOT / "tools" / "install", *sorted((ROOT / "images").glob("*/Containerfile"))):
        commands = [
            command
            for line in path.read_text().replace("\\\n", " ").splitlines()
            for command in re.split("&&|;", line)
            if re.search(r"\bpip\b.* install ", command)
        ]
        assert commands, path
        for command in commands:
            assert re.search("--require-hashes|--no-index|FLASH_ATTN", command), (
                f"{path}: {command}"
            )
