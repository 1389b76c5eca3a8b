"""What people see of a fetch, and where they are asked."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from vita_train.data.fetch.progress import Progress, size


def test_a_line_has_bytes_rate_and_time_left() -> None:
    progress = Progress("fetch", 10_000_000)
    progress.skip(5_000_000)
    progress.add(2_000_000)
    progress.add(-1_000_000)
    line = progress.line()
    assert line.startswith("fetch: 6.0 MB of 10.0 MB, ")
    assert "/s, " in line
    assert line.endswith("left")


@pytest.mark.parametrize(
    ("count", "told"), [(999, "999 bytes"), (1500, "1.5 kB"), (347 * 10**9, "347.0 GB")]
)
def test_sizes_are_read_by_people(count: int, told: str) -> None:
    assert size(count) == told


@pytest.mark.parametrize("answer", [b"y\n", b"n\n"])
def test_at_a_terminal_a_person_is_asked_for_the_licence(tmp_path: Path, answer: bytes) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "a.json").write_text("[]")
    (tmp_path / "own" / "mine.yaml").write_text(
        "name: mine\ntitle: Mine\nkind: media\n"
        f"places: [{{kind: file, path: {tmp_path / 'a.json'}}}]\n"
    )
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "vita_train.cli.main", "data", "fetch", "mine"]
    process = subprocess.Popen(
        [*command, "--to", str(tmp_path / "to")],
        env={**os.environ, "VITA_TRAIN_CATALOGUE": str(tmp_path / "own")},
        stdin=theirs,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.write(ours, answer)
    assert process.wait(timeout=120) == (0 if answer == b"y\n" else 2)
    assert (tmp_path / "to" / "a.json").exists() == (answer == b"y\n")
