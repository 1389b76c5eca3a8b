"""A rank that behaves as the stage's name says, in place of a training stage: LOGS RECIPE STAGE
RUN."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from vita_train.launch.process import die_with_parent


def main() -> None:
    die_with_parent()
    logs, behaviour, rank = Path(sys.argv[1]), sys.argv[3], int(os.environ["RANK"])
    with (logs / f"rank-{rank}.log").open("a", buffering=1) as out:
        print(f"rank {rank} of {os.environ['WORLD_SIZE']}", file=out)
        if behaviour == "wait":
            (Path(sys.argv[4]) / f"started-{rank}").write_text(str(os.getpid()))
            time.sleep(120)
        if behaviour == "refuse" and rank == 3:
            report = {
                "code": 2,
                "what": "no images",
                "where": "recipe.yaml:7",
                "remedy": "name another",
            }
            (logs / f"rank-{rank}.error.json").write_text(json.dumps(report))
            print("x" * 9000 + "\nabout to refuse", file=out)
            sys.exit(2)
        if behaviour == "refuse":
            time.sleep(120)  # until torchrun stops it: a peer of its node failed
        print("half a line", end="", file=out)


if __name__ == "__main__":
    main()
