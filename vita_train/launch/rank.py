"""What torchrun starts for each rank: a stage, with all output in ``rank-<r>.log``.

    python -m vita_train.launch.rank LOGS RECIPE STAGE RUN

The file is opened before anything heavy is imported, so that whatever ends the process is in it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from vita_train.launch.process import die_with_parent, run_rank


def main() -> int:
    """Redirect standard output and error to the rank's log, then train the stage; return the exit code."""
    die_with_parent()
    logs = Path(sys.argv[1])
    log = os.open(logs / f"rank-{os.environ['RANK']}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    recipe, stage, run = sys.argv[2:]

    from vita_train.errors import VitaError
    from vita_train.recipe.load import load_recipe
    from vita_train.runs.run import Run
    from vita_train.training.stage import run_stage

    try:
        run_stage(Run(load_recipe(recipe), run), stage, logs=logs)
    except VitaError as error:  # anything else is a fault of ours, whose traceback belongs into the log
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    run_rank(main)
