"""The processes of a cluster: started with a log each, watched while something of theirs is waited
for, killed."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from kubernetes.client.exceptions import ApiException, OpenApiException
from urllib3.exceptions import HTTPError

HOME = Path(
    os.environ.get("VITA_TRAIN_CONTROL_PLANE")
    or Path.home() / ".cache/vita-train-test/control-plane"
)
_START_SECONDS = 120.0


def missing(programs: Sequence[str]) -> str:
    """Return what is not built yet, as a message to skip with; empty if nothing is missing."""
    absent = [name for name in programs if not (HOME / "bin" / name).exists()]
    return f"no {', '.join(absent)} in {HOME / 'bin'}: run tests/cluster/build.sh" if absent else ""


class Processes:
    """Programs that ``tests/cluster/build.sh`` has built.

    Args:
        folder: where their logs go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, arguments: Sequence[str]) -> None:
        """Start a program; it finds the others by their names."""
        log = (self.folder / f"{name}.log").open("wb")
        self._running.append(
            subprocess.Popen(
                [str(HOME / "bin" / name), *arguments],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PATH": f"{HOME / 'bin'}:{os.environ['PATH']}"},
            )
        )

    def until(self, is_done: Callable[[], object], what: str) -> None:
        """Wait for something that these programs bring about; a server that does not answer yet is
        waited for."""
        deadline = time.monotonic() + _START_SECONDS
        while True:
            ended = [str(one.args[0]) for one in self._running if one.poll() is not None]
            assert not ended, f"{ended} ended; logs are in {self.folder}"
            try:
                if is_done():
                    return
            except (ApiException, OpenApiException, HTTPError, OSError, ValueError):
                pass
            assert time.monotonic() < deadline, f"{what} is not there; logs are in {self.folder}"
            time.sleep(0.2)

    def stop(self) -> None:
        """End all of them, the last started first."""
        for process in reversed(self._running):
            process.kill()
        for process in self._running:
            process.wait()
