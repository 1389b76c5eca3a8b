"""What a process on a node with a full disk does; prints one JSON line: the error, the files left,
the bytes in use.

python small_disk_worker.py CASE DISK ENDPOINT BUCKET
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from tests.helpers.checkpoints import STAGE, files_below, save, whole_step
from vita_train.errors import VitaError
from vita_train.runs.manifest import Manifest
from vita_train.storage.base import FileRef
from vita_train.storage.cache import fetch_file
from vita_train.storage.checkpoints.attempt import begin_attempt
from vita_train.storage.checkpoints.commit import latest_commit, restore
from vita_train.storage.local import LocalStore
from vita_train.storage.s3 import S3Store
from vita_train.storage.tar_shards import fetch_tree


def fetch_weights(disk: Path, store: S3Store) -> None:
    ref = FileRef.model_validate_json(store.read("weights.json"))
    fetch_file(ref, endpoint=store._server)


def restore_checkpoint(disk: Path, store: S3Store) -> None:
    commit = latest_commit(store, STAGE)
    assert commit is not None
    restore(store, commit, disk / "cache" / "restore")


def fetch_folder(disk: Path, store: S3Store) -> None:
    """The shards fit, what is in them does not fit beside them."""
    manifest = Manifest.model_validate_json(store.read("folder.json"))
    fetch_tree(manifest.files, disk / "cache" / "raw", endpoint=store._server)


def save_to_disk(disk: Path, store: S3Store) -> None:
    """The store itself is the full disk; the checkpoint before stays whole."""
    local = LocalStore(disk / "store")
    attempt = begin_attempt(local, STAGE)
    save(local, attempt, 10, disk.parent / "work")
    try:
        save(local, attempt, 20, disk.parent / "work")
    finally:
        assert whole_step(local, disk / "back") == (10, "")


def save_state(disk: Path, store: S3Store) -> None:
    """An engine's checkpoint is written to the cache before it goes to the store."""
    import torch

    from vita_train.training.parallel.distributed import World
    from vita_train.training.resume import Checkpoints

    class Engine:
        def save(self, directory: Path) -> None:
            torch.save({"weights": torch.ones(10 << 20)}, directory / "state.pt")

    checkpoints = Checkpoints(
        store, STAGE, World(0, 1, 0, torch.device("cpu")), "digest", keep_last=2
    )
    checkpoints.begin()
    checkpoints.save(Engine(), 20, {})  # type: ignore[arg-type]


CASES = {
    case.__name__: case
    for case in (fetch_weights, restore_checkpoint, fetch_folder, save_to_disk, save_state)
}


def main() -> None:
    case, disk, endpoint, bucket = sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4]
    told: dict[str, Any] = {}
    try:
        CASES[case](disk, S3Store(bucket, "runs", endpoint=endpoint))
    except VitaError as error:
        told = {
            "kind": type(error).__name__,
            "code": error.exit_code,
            "what": error.what,
            "where": error.where,
            "remedy": error.remedy,
        }
    print(
        json.dumps({"error": told, "left": files_below(disk), "used": shutil.disk_usage(disk).used})
    )


if __name__ == "__main__":
    main()
