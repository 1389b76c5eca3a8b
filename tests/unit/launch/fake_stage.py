"""A stage's process that behaves as its first argument says: what torchrun starts in the launcher's
tests."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from vita_train.launch.process import die_with_parent
from vita_train.runs.final import write_final
from vita_train.runs.manifest import Manifest
from vita_train.storage.factory import open_store


def main() -> None:
    behaviour, root, run, stage = sys.argv[1:5]
    rank = int(os.environ["RANK"])
    home = Path(root) / run / stage
    attempts = home / f"attempts-{rank}"
    attempts.write_text(str(int(attempts.read_text()) + 1 if attempts.exists() else 1))

    def end(code: int, what: str) -> None:
        report = {"code": code, "what": what, "where": f"rank {rank}", "remedy": "do something"}
        (home / "logs" / f"rank-{rank}.error.json").write_text(json.dumps(report))
        sys.exit(code)

    match behaviour:
        case "refuse":
            end(2, "the data has no images") if rank == 0 else end(138, "a peer was lost")
        case "retry-once" if attempts.read_text() == "1":
            end(138, "a step hung")
        case "crash":
            raise RuntimeError("shapes differ")
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "sleep":
            die_with_parent()
            (home / f"pid-{rank}").write_text(str(os.getpid()))
            time.sleep(120)
        case "nothing":
            return
    if rank == 0:
        seen = {
            "world": float(os.environ["WORLD_SIZE"]),
            "threads": float(os.environ["OMP_NUM_THREADS"]),
        }
        manifest = Manifest(kind="model", run=run, stage=stage, digest="d", metrics=seen)
        write_final(open_store(root), f"{run}/{stage}", manifest)


if __name__ == "__main__":
    main()
