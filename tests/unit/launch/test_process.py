"""The end of a job's process: its exit code is what its work came to, whatever the interpreter
still holds."""

from __future__ import annotations

import subprocess
import sys

import pytest

RANK = """
import atexit, os, sys
from vita_train.launch.process import run_rank

class Thread:
    def __del__(self):
        # As a thread of gloo does that lets go of a tensor while the interpreter goes down.
        os.abort()

held = Thread()
atexit.register(lambda: print("handlers ran"))

def main():
    sys.stdout.write("half a line, ")
    {end}

run_rank(main)
"""


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        ("return 0", 0, ""),
        ("return 75", 75, ""),
        ("raise RuntimeError('a fault of ours')", 1, "a fault of ours"),
    ],
)
def test_the_work_decides_the_exit_code(end: str, code: int, words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RANK.replace("{end}", end)], capture_output=True, text=True
    )
    assert done.returncode == code
    assert done.stdout == "half a line, handlers ran\n"
    assert words in done.stderr
