"""A job of this machine that ran out of memory: what it was estimated to take, and what takes
less."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from vita_train.errors import VitaError
from vita_train.launch.outcome import tail

#: How torch says that a GPU, or the machine, has no more.
_WORDS = ("OutOfMemoryError", "can't allocate memory", "MemoryError")
#: Seconds that the estimate may take; who waits for the reason waits no longer.
_PATIENCE = 300


def ran_out(failure: VitaError, logs: Path) -> bool:
    """Say whether a job ended for want of memory, as far as can be told: killed, as the kernel
    does, or by torch's own words."""
    if f"killed by {signal.Signals.SIGKILL.name}" in failure.what:
        return True
    ends = [failure.what, *(tail(path) for path in sorted(logs.glob("rank-*.log")))]
    return any(word in text for word in _WORDS for text in ends)


def with_estimate(failure: VitaError, recipe: Path, stage: str) -> VitaError:
    """Return the failure with the stage's estimate and the next cheaper setting; unchanged where
    there is none.

    Args:
        failure: the job's.
        recipe: file of the recipe that it ran.
        stage: which.
    """
    command = [sys.executable, "-m", "vita_train.planning.advice", str(recipe), stage]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=_PATIENCE
        )
        found = json.loads(done.stdout.splitlines()[-1])
        needed, memory = int(found["needed"]), int(found["memory"])
        setting = str(found["setting"])
    except (subprocess.SubprocessError, OSError, ValueError, LookupError):
        return failure
    if not needed:
        return failure
    what = (
        f"{failure.what}; the estimate of stage {stage} is {needed / 1e9:,.2f} GB for each "
        f"process and {int(found['host']) / 1e9:,.1f} GB of the node's memory; there are "
        f"{memory / 1e9:,.1f} GB"
    )
    remedy = f"take less memory: --set '{setting}'" if setting else failure.remedy
    return type(failure)(what, code=failure.code, where=failure.where, remedy=remedy)
