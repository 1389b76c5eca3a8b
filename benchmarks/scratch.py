"""Where a benchmark works: a folder and a store for its time."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from tests.helpers.s3_server import ACCESS_KEY, SECRET_KEY, serve_s3


@contextmanager
def scratch() -> Iterator[Path]:
    """Give a folder for the time of the block; exit handlers of forked ranks must not remove it."""
    folder = Path(tempfile.mkdtemp(prefix="vita-kills-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def server_for(store: str, folder: Path) -> Iterator[str]:
    """Run an S3 server if the store is to be on one; its endpoint, or nothing."""
    os.environ |= {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    (folder / "s3").mkdir()
    with serve_s3(folder / "s3") if store == "s3" else nullcontext() as server:
        if server is not None and server.kind == "moto":  # it would be forked along
            raise SystemExit(
                "error: kills on S3 need versitygw: tests/tools/build-versitygw.sh builds it"
            )
        yield server.endpoint if server else ""
