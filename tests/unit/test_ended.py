"""What is said of a process that ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from vita_train.ended import ending, last_words


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("import sys; sys.exit('first\\nlast')", ["last"]),
        ("import sys; sys.exit(3)", ["exit code 3"]),
        ("import os; os.kill(os.getpid(), 9)", ["SIGKILL", "memory"]),
        # What it wrote before says nothing of an end that came from outside.
        ("import os, sys; print('a warning', file=sys.stderr, flush=True); os.kill(os.getpid(), 4)",
         ["SIGILL", "ATEN_CPU_CAPABILITY"]),
        ("import os; os.kill(os.getpid(), 15)", ["SIGTERM"]),
    ],
)  # fmt: skip
def test_why_a_process_ended(program: str, told: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    words = last_words(done.returncode, done.stderr)
    assert all(fact in words for fact in told), words
    assert "warning" not in words
    assert "first" not in words


def test_signals_without_a_name_have_their_number() -> None:
    assert ending(-signal.SIGRTMIN - 1) == f"signal {signal.SIGRTMIN + 1}"
    assert ending(-os.EX_OK) == "exit code 0"
