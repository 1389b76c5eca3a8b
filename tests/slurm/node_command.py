"""A node's command that behaves as its first argument says, in place of a stage: BEHAVIOUR
FOLDER."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path


def main() -> None:
    behaviour, folder = sys.argv[1], Path(sys.argv[2])
    node, restart = os.environ["PET_NODE_RANK"], os.environ.get("SLURM_RESTART_COUNT", "0")

    def end(code: int, what: str) -> None:
        report = {"code": code, "what": what, "where": f"node {node}", "remedy": "do something"}
        Path(os.environ["VITA_TRAIN_TERMINATION_LOG"]).write_text(json.dumps(report))
        sys.exit(code)

    def stop(*_: object) -> None:
        (folder / f"stopped-{node}").write_text(restart)
        end(143, "stopped as asked")

    signal.signal(signal.SIGTERM, stop)
    print(f"hello from {node}", flush=True)
    with (folder / f"started-{node}").open("a") as file:
        topology = {name: value for name, value in os.environ.items() if name.startswith("PET_")}
        file.write(
            json.dumps({**topology, "threads": os.environ.get("SLURM_CPUS_PER_TASK")}) + "\n"
        )
    match behaviour:
        case "refuse" if node == "1":
            end(2, "the data has no images")
        case "die" if node == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        case "crash":
            raise RuntimeError("shapes differ")
        case "wait":
            time.sleep(300)
        case "wait-once" if not (folder / "stopped-0").exists():
            time.sleep(300)
        case "refuse" | "die":
            time.sleep(120)


if __name__ == "__main__":
    main()
