"""The child process in which kfp.local runs a compiled pipeline; its output is the pipeline's log.

    python -m vita_train.pipeline.local.execute PIPELINE.yaml ARGUMENTS.json SCRATCH
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

from vita_train.launch.process import die_with_parent


def main() -> int:
    """Run the pipeline; 1 when a task failed."""
    signal.signal(signal.SIGTERM, _stop_all)
    die_with_parent()
    pipeline, arguments, scratch = (Path(argument) for argument in sys.argv[1:])

    from kfp import components, local

    # kfp.local deletes its workspace when it ends: it must be a directory of its own.
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(scratch / "outputs"),
               workspace_root=str(scratch / "workspace"))
    run = components.load_component_from_file(str(pipeline))
    # kfp's tasks leave their program in the place for temporary files.
    with tempfile.TemporaryDirectory(prefix="vita-train-", ignore_cleanup_errors=True) as temporary:
        os.environ["TMPDIR"] = temporary
        try:
            run(**json.loads(arguments.read_text(encoding="utf-8")))
        except RuntimeError as error:  # what kfp raises when a task has failed; the task's own words stand above
            print(error)
            return 1
    return 0


def _stop_all(number: int, frame: FrameType | None) -> None:
    """Pass the signal on to the tasks, which are in this process's group, and go."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
