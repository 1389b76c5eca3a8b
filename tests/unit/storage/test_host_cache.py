"""Digests that the processes of a machine share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vita_train.storage import host_cache
from vita_train.storage.digest import sha256_file
from vita_train.storage.host_cache import cache_dir, known_digest


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITA_TRAIN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large.safetensors"
    path.write_bytes(b"weights")
    os.truncate(path, host_cache._LARGE)
    return path


def elsewhere(path: Path) -> str:
    """Return what another process says."""
    script = (
        "import sys, pathlib, vita_train.storage.host_cache as n; "
        "print(n.known_digest(pathlib.Path(sys.argv[1])))"
    )
    return subprocess.run(
        [sys.executable, "-c", script, str(path)], text=True, capture_output=True, check=True
    ).stdout.strip()


def test_a_large_file_is_read_by_one_process_only(large: Path) -> None:
    digest = known_digest(large)
    assert digest == sha256_file(large)
    (note,) = (cache_dir() / "digests").glob("*.json")
    known = json.loads(note.read_text())
    note.write_text(json.dumps({**known, "sha256": "as noted"}))
    assert elsewhere(large) == "as noted"


@pytest.mark.parametrize("change", ["content", "replaced"])
def test_a_file_that_changed_is_read_again(large: Path, change: str) -> None:
    before = known_digest(large)
    if change == "content":
        with large.open("r+b") as file:
            file.write(b"WEIGHTS")
    else:  # by another of the same size and time
        times, other = large.stat(), large.with_name("other")
        other.write_bytes(b"WEIGHTS")
        os.truncate(other, host_cache._LARGE)
        os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
        os.replace(other, large)
    assert elsewhere(large) == known_digest(large) == sha256_file(large) != before


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"file": 3, "sha256": 4}'])
def test_a_damaged_note_is_written_anew(large: Path, content: str) -> None:
    known_digest(large)
    (note,) = (cache_dir() / "digests").glob("*.json")
    note.write_text(content)
    assert known_digest(large) == sha256_file(large)
    assert json.loads(note.read_text())["sha256"] == sha256_file(large)


def test_no_place_for_notes_costs_only_time(large: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert known_digest(large) == sha256_file(large)
