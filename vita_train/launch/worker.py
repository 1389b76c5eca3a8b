"""What each pod of a training job runs: torchrun for this node's ranks, their output as the pod's,
their end explained.

    python -m vita_train.launch.worker RECIPE STAGE RUN

The topology comes from the ``PET_*`` variables that PyTorchJob and TrainJob alike put into the pod,
and torchrun reads them. torchrun itself ends with 1 whatever a rank ended with, so this passes on
the code that says whether to try again (see `vita_train.errors`), and leaves the reason as the
pod's termination message.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO

from vita_train.errors import VitaError
from vita_train.launch.outcome import LAST_WORDS, tail
from vita_train.launch.torchrun import environment, rank_entry, run_torchrun
from vita_train.recipe.load import load_recipe
from vita_train.recipe.platform import GRACE
from vita_train.storage.factory import open_file

#: Kubernetes reads a container's last words here, up to 4096 bytes.
TERMINATION_LOG = Path(os.environ.get(LAST_WORDS, "/dev/termination-log"))
#: Environment variable: S3 endpoint of the store that the recipe lies in, when it is not AWS.
ENDPOINT = "VITA_TRAIN_ENDPOINT"
_MARGIN = 10.0
_MOST_BYTES = 4096
_READ = 1 << 16


class Tails:
    """Follows the ranks' logs and writes what they add to one stream; every rank but 0 with its
    number in front."""

    def __init__(self, logs: Path, out: BinaryIO) -> None:
        self._logs = logs
        self._out = out
        self._read: dict[Path, int] = {}
        self._rest: dict[Path, bytes] = {}

    def __call__(self, *, last: bool = False) -> None:
        """Write every whole line added since the last call; with ``last``, also what has no line
        end yet."""
        for path in sorted(self._logs.glob("*.log")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                while chunk := file.read(_READ):
                    self._read[path] = self._read.get(path, 0) + len(chunk)
                    self._write(path, chunk)
            if last and self._rest.get(path):
                self._write(path, b"\n")
        self._out.flush()

    def _write(self, path: Path, chunk: bytes) -> None:
        *lines, self._rest[path] = (self._rest.get(path, b"") + chunk).split(b"\n")
        mark = b"" if path.name == "rank-0.log" else f"[{path.stem}] ".encode()
        self._out.writelines(mark + line + b"\n" for line in lines)


def main() -> int:
    """Run this node's ranks; returns the exit code of the pod."""
    uri, stage, run = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="vita-train-") as folder:
        try:
            failure = _run(uri, stage, run, Path(folder))
        except VitaError as error:
            failure = error
        if failure is None:
            return 0
        print(f"error: {failure}", file=sys.stderr, flush=True)
        say_last_words(failure, Path(folder))
        return failure.exit_code


def say_last_words(failure: VitaError, logs: Path, to: Path = TERMINATION_LOG) -> None:
    """Leave the reason, and the last lines of every rank, where Kubernetes reads a container's last
    words."""
    said = {
        **failure.report(),
        "tails": {path.stem: tail(path) for path in sorted(logs.glob("rank-*.log"))},
    }
    while len(text := json.dumps(said, ensure_ascii=False).encode()) > _MOST_BYTES:
        if (shorter := _shortened(said)) == said:
            break
        said = shorter
    try:
        to.write_bytes(text)
    except OSError as error:  # not in a pod
        print(f"warning: no termination message: {error}", file=sys.stderr)


def _run(uri: str, stage: str, run: str, folder: Path) -> VitaError | None:
    store, key = open_file(uri, endpoint=os.environ.get(ENDPOINT) or None)
    path = folder / "recipe.yaml"
    path.write_bytes(store.read(key))
    recipe = load_recipe(str(path))
    tails = Tails(folder, sys.stdout.buffer)
    # Less than the pod's: after the ranks have ended the reason must still be written
    grace = max(float(os.environ.get(GRACE, "30")) - _MARGIN, _MARGIN)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--max-restarts",
        "0",
        *rank_entry(folder, str(path), stage, run),
    ]
    try:
        return run_torchrun(
            command, folder, environment(recipe.launch.threads), grace=grace, beat=tails
        )
    finally:
        tails(last=True)


def _shortened(said: dict[str, object]) -> dict[str, object]:
    """Drop the oldest line of the longest tail; without tails, half of the longest text."""
    tails = said["tails"]
    assert isinstance(tails, dict)
    longest = max(tails, key=lambda name: len(tails[name]), default="")
    if longest and tails[longest]:
        return {**said, "tails": {**tails, longest: tails[longest].partition("\n")[2]}}
    # By the bytes they take: a character may be several, and an escape six
    field = max(("what", "where", "remedy"), key=lambda name: len(json.dumps(said[name])))
    text = str(said[field])
    return {**said, field: text[: len(text) // 2]}


if __name__ == "__main__":
    sys.exit(main())
