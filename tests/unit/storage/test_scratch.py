"""What a killed process leaves behind goes with the next one, and what a living one uses stays."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vita_train.storage.base import PRIVATE
from vita_train.storage.local import LocalStore
from vita_train.storage.scratch import scratch_folder, sweep_private
from vita_train.weights.staging import atomic_directory

WRITER = """
import sys, time
from pathlib import Path
from vita_train.storage.local import private_file
from vita_train.storage.scratch import scratch_folder
from vita_train.weights.staging import atomic_directory

home = Path(sys.argv[1])
with (private_file(home / "1.1" / "final.json") as (_, file),
      scratch_folder(home / "1.1", "final") as scratch,
      atomic_directory(home / "export" / "model", "export.json", "export") as aside):
    for path in (scratch, aside):
        (path / "half.safetensors").write_bytes(b"x" * 1000)
    file.write(b"{")
    file.flush()
    print("writing", flush=True)
    time.sleep(600)
"""


@contextmanager
def writer(home: Path) -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of a file, a scratch folder and an export."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(home)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    try:
        assert process.stdout.readline() == "writing\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def private(home: Path) -> set[str]:
    """Names of all leftovers, without the random part."""
    return {
        path.name.removeprefix(PRIVATE).rpartition("-")[0] for path in home.rglob(f"{PRIVATE}*")
    }


def test_leftovers_of_a_kill_are_swept_and_not_those_of_the_living(tmp_path: Path) -> None:
    (tmp_path / "1.1").mkdir()
    (tmp_path / "1.1" / "kept.json").write_text("{}")
    with writer(tmp_path) as process:
        assert private(tmp_path) == {"", "final", "model"}
        assert sweep_private(tmp_path) == []
        assert private(tmp_path) == {"", "final", "model"}
        process.kill()
        process.wait()
        assert private(tmp_path) == {"", "final", "model"}
        assert len(sweep_private(tmp_path)) == 3
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["kept.json"]


def test_the_next_user_of_a_place_sweeps_it(tmp_path: Path) -> None:
    with writer(tmp_path) as process:
        with scratch_folder(tmp_path / "1.1", "final"):
            assert len(list((tmp_path / "1.1").glob(f"{PRIVATE}final-*"))) == 2
        process.kill()
        process.wait()
        with scratch_folder(tmp_path / "1.1", "final") as own:
            assert list((tmp_path / "1.1").glob(f"{PRIVATE}final-*")) == [own]
        with atomic_directory(tmp_path / "export" / "model", "export.json", "export") as aside:
            (aside / "export.json").write_text("{}")
    assert [path.name for path in (tmp_path / "export").iterdir()] == ["model"]
    assert not list((tmp_path / "1.1").glob(f"{PRIVATE}final-*"))


def test_an_export_that_fails_leaves_the_one_before(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with atomic_directory(tmp_path / "model", "export.json", "export") as aside:
            (aside / "export.json").write_text(text)
    with (
        pytest.raises(FileNotFoundError),
        atomic_directory(tmp_path / "model", "export.json", "export") as aside,
    ):
        (aside / "absent.json").read_bytes()
    assert (tmp_path / "model" / "export.json").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_files_that_checkpoints_are_waiting_in_are_left_to_their_stage(tmp_path: Path) -> None:
    waiting = tmp_path / "1.1" / f"{PRIVATE}staging" / "attempt" / "rank-0" / "part.bin"
    waiting.parent.mkdir(parents=True)
    waiting.write_bytes(b"x")
    LocalStore(tmp_path).write("1.1/final.json", b"{}")
    assert sweep_private(tmp_path) == []
    assert waiting.is_file()
