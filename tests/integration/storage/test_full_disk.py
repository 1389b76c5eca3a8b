"""A node whose disk is full, a small one mounted for a child process: it is told as such, and
nothing half stays."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.checkpoints import STAGE, content, save
from tests.helpers.s3_server import S3Server
from vita_train.errors import EXIT_REFUSED
from vita_train.runs.manifest import Manifest
from vita_train.storage.checkpoints.attempt import begin_attempt
from vita_train.storage.s3 import MIB, S3Store
from vita_train.storage.tar_shards import publish_tree

HERE = Path(__file__).parent
#: A shell in a mount namespace of its own, in which the folder is a disk of so many MiB.
MOUNTED = [
    "unshare",
    "--user",
    "--map-root-user",
    "--mount",
    "sh",
    "-c",
    'mount -t tmpfs -o size="$0"m none "$1" && shift && exec "$@"',
]


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    folder = tmp_path / "disk"
    folder.mkdir()
    probe = [*MOUNTED, "1", str(folder), "true"]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("this user may not mount a disk in a namespace")
    return folder


def on_small_disk(
    case: str, disk: Path, mebibytes: int, server: S3Server, bucket: str
) -> dict[str, Any]:
    """Run a case of the worker with its cache on a disk of so many MiB and return what it
    printed."""
    environment = {
        **os.environ,
        "VITA_TRAIN_CACHE": str(disk / "cache"),
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[2])]),
    }
    done = subprocess.run(
        [
            *MOUNTED,
            str(mebibytes),
            str(disk),
            sys.executable,
            str(HERE / "small_disk_worker.py"),
            case,
            str(disk),
            server.endpoint,
            bucket,
        ],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def assert_no_space_told(error: dict[str, Any], folder: Path) -> None:
    assert (error["kind"], error["code"]) == ("UserError", EXIT_REFUSED)
    assert "no space left" in error["what"]
    assert error["where"].startswith(str(folder))
    assert "VITA_TRAIN_CACHE" in error["remedy"]


def test_a_file_that_does_not_fit(
    direct: S3Store, s3_server: S3Server, disk: Path, tmp_path: Path
) -> None:
    path = tmp_path / "large.bin"
    path.write_bytes(content(0, "large"))
    direct.write("weights.json", direct.upload(path, "large.bin").model_dump_json().encode())
    told = on_small_disk("fetch_weights", disk, 4, s3_server, direct.bucket)
    assert_no_space_told(told["error"], disk / "cache")
    assert told["left"] == []
    assert told["used"] < MIB


def test_a_checkpoint_that_does_not_fit(
    direct: S3Store, s3_server: S3Server, disk: Path, tmp_path: Path
) -> None:
    save(direct, begin_attempt(direct, STAGE), 10, tmp_path / "work")
    told = on_small_disk("restore_checkpoint", disk, 4, s3_server, direct.bucket)
    assert_no_space_told(told["error"], disk / "cache")
    assert set(told["left"]) <= {"cache/restore/optim-1.bin"}, "whole files stay, half ones do not"


def test_a_folder_that_does_not_fit(
    direct: S3Store, s3_server: S3Server, disk: Path, tmp_path: Path
) -> None:
    made = tmp_path / "raw"
    made.mkdir()
    (made / "film.mp4").write_bytes(content(0, "large"))
    shards = publish_tree(made, direct, "first/data_fetch/shards")
    manifest = Manifest(kind="data", run="first", stage="data_fetch", digest="digest", files=shards)
    direct.write("folder.json", manifest.model_dump_json().encode())
    told = on_small_disk("fetch_folder", disk, 9, s3_server, direct.bucket)
    assert_no_space_told(told["error"], disk / "cache")
    assert told["left"] == []
    assert told["used"] < MIB


def test_a_store_on_a_disk_that_fills_up(s3_server: S3Server, bucket: str, disk: Path) -> None:
    told = on_small_disk("save_to_disk", disk, 10, s3_server, bucket)
    assert_no_space_told(told["error"], disk / "store")
    assert not any(".vita-tmp-" in name for name in told["left"])


def test_a_state_that_does_not_fit(direct: S3Store, s3_server: S3Server, disk: Path) -> None:
    told = on_small_disk("save_state", disk, 12, s3_server, direct.bucket)
    assert_no_space_told(told["error"], disk / "cache" / "staging")
    assert told["left"] == []
    assert direct.list(f"{STAGE}/committed/") == []
