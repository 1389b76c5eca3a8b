"""What torchrun starts for each rank: a stage, with all output in ``rank-<r>.log``.

    python -m vita_train.launch.rank LOGS RECIPE STAGE RUN

The file is opened before anything heavy is imported, so that whatever ends the process is in it.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from vita_train.launch.process import die_with_parent, run_rank


def main() -> int:
    """Redirect standard output and error to the rank's log, then train the stage; return the exit
    code."""
    die_with_parent()
    logs = Path(sys.argv[1])
    # Kept before it is covered: torchrun's output, which reaches the launcher where the log's disk
    # is full
    starter = os.dup(2)
    # APPEND: a rank that is started again adds to what the last one said
    log = os.open(
        logs / f"rank-{os.environ['RANK']}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644
    )
    os.dup2(log, 1)
    os.dup2(log, 2)
    # A file is buffered in blocks otherwise, and a kill takes the last one along
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    recipe, stage, run = sys.argv[2:]

    from vita_train.console import reach_starter, tell_starter
    from vita_train.errors import VitaError
    from vita_train.launch.outcome import report_line
    from vita_train.recipe.load import load_recipe
    from vita_train.report.live import LivePage
    from vita_train.runs.run import Run
    from vita_train.storage.disk_errors import as_full_disk
    from vita_train.training.stage import run_stage

    reach_starter(starter)
    try:
        opened = Run(load_recipe(recipe), run)
        run_stage(opened, stage, logs=logs, page=LivePage(opened))
    except Exception as error:
        told = error if isinstance(error, VitaError) else as_full_disk(error, logs)
        if told is None:  # a fault of ours, whose traceback belongs into the log
            raise
        tell_starter(
            report_line(told)
        )  # the log and the error file may be on the disk that is full
        with suppress(OSError):
            print(f"error: {told}", file=sys.stderr)
        return told.exit_code
    return 0


if __name__ == "__main__":
    run_rank(main)
