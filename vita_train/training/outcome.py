"""What a rank leaves for the launcher when it fails: ``logs/rank-<r>.error.json``."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from vita_train.errors import VitaError


def write_outcome(logs: Path, rank: int, error: VitaError) -> None:
    """Write code, what, where and remedy of an error, whole or not at all.

    On a disk that takes no more nothing is written; the rank tells its launcher the error by
    another way too.
    """
    with suppress(OSError):
        _write(logs, rank, error)


def _write(logs: Path, rank: int, error: VitaError) -> None:
    logs.mkdir(parents=True, exist_ok=True)
    path = logs / f"rank-{rank}.error.json"
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(error.report(), ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(unfinished, path)
