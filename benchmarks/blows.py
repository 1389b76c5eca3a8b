"""Processes that are started to be killed, and the blows that fall on them."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

#: Seconds a step takes at most, blows aside; the watchdog acts long before.
PATIENCE = 600.0


def start(work: Callable[[], None], log: Path) -> int:
    """Fork a process that leads a group of its own; what it prints goes to a file."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(child: int, seconds: float) -> int | None:
    """Wait for a process; return its exit status, or None if it goes on for longer."""
    deadline = time.monotonic() + seconds
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.005)


def kill_all(child: int, others: list[psutil.Process]) -> None:
    """Kill a step's processes, also those that have left its group."""
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    for other in others:
        with suppress(psutil.NoSuchProcess):
            other.kill()
    with suppress(ChildProcessError):
        os.waitpid(child, 0)


def strike(child: int, blow: str, patience: float) -> None:
    """Let a blow fall on a running step and wait until it has ended.

    After `patience` seconds all of it is killed.
    """
    with suppress(psutil.NoSuchProcess):
        others = psutil.Process(child).children(recursive=True)
        victims = [one.pid for one in others] or [child]
        if blow != "kill":
            with suppress(ProcessLookupError):
                os.kill(
                    random.choice(victims), signal.SIGKILL if blow == "lose" else signal.SIGSTOP
                )
            if ended(child, PATIENCE if blow == "lose" else patience) is not None:
                return
            others = psutil.Process(child).children(recursive=True)
        kill_all(child, others)
