"""Builds the images that a node of the tests runs; it has no network to pull or build any
itself."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.helpers.images.engine import Engine, missing

if __name__ == "__main__":
    if why := missing():
        sys.exit(f"error: {why}")
    with tempfile.TemporaryDirectory() as scratch:
        engine = Engine(Path(scratch))
        for build in (
            engine.build_pause,
            engine.build_launcher,
            engine.build_data,
            engine.build_trainer,
        ):
            print(f"building {build.__name__.removeprefix('build_')}", flush=True)
            build()
