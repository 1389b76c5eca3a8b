"""Child processes that never outlive their parent, and that end as what they did says."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent goes, even by SIGKILL. Linux only; elsewhere
    nothing happens."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it went before the request was in place
        os.kill(os.getpid(), signal.SIGTERM)


def run_rank(main: Callable[[], int]) -> NoReturn:
    """Run ``main`` as a whole process of a job and end with its exit code, or 1 after an error
    nobody caught.

    Exit handlers run; the interpreter is not taken down. Threads of a process group may still hold
    tensors at that time, and one that lets go of its tensor then aborts the process
    (pytorch/pytorch#190489): a stage that was trained and committed would count as failed.
    """
    try:
        code = main()
    except Exception:
        traceback.print_exc()
        code = 1
    # os._exit skips them, and log handlers and scratch folders end there
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def has_gpu() -> bool:
    """Say whether this machine has an NVIDIA driver, without importing torch."""
    return Path("/dev/nvidiactl").exists() or Path("/proc/driver/nvidia/version").exists()


@contextmanager
def on_stop(handler: Callable[[int], None]) -> Iterator[None]:
    """Call ``handler`` on SIGTERM and SIGINT for as long as the context lasts. Main thread only,
    else no change."""

    def call(number: int, frame: FrameType | None) -> None:
        handler(number)

    try:
        before = {number: signal.signal(number, call) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread: whoever owns it handles signals
        yield
        return
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def stop_group(process: subprocess.Popen[bytes], *, grace: float) -> None:
    """End a process that leads its own group, and all of the group: SIGTERM, then SIGKILL after
    ``grace`` seconds."""
    _signal_group(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while time.monotonic() < deadline:
        process.poll()  # collects the leader, so that it no longer counts as a member
        if not group_alive(process.pid):
            return
        time.sleep(0.05)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()


def group_alive(group: int) -> bool:
    """Say whether any process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS answers so for a group of zombies
        return False
    return True


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
