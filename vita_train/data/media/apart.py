"""Decoding in a process of its own, with limits of time and memory: no file can take the
preparation with it.

The process that is started imports the decoders and then forks: the fork decodes, and where a file
ends it, the next is forked within milliseconds. Only what this package itself writes goes through
the pipe between them.

A file may be asked for ahead, while the answer for the one before it is worked on. Every question
has a number, and so has every answer and every end of a fork: whatever a file that was asked for
ahead does counts for that file alone, and for nothing if it is not wanted after all.
"""

from __future__ import annotations

import mmap
import os
import pickle
import resource
import signal
import socket
import subprocess
import sys
import warnings
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path

import vita_train
from vita_train.data.media import MediaError
from vita_train.data.media.measure import Measured, MeasureSettings, MediaFile, measure
from vita_train.ended import ending
from vita_train.errors import VitaError

#: Bytes that decoding may take on top of what the process takes idle, some 0.1 GB.
MEMORY = 850 << 20
#: Bytes that each second of audio may take, so that a recipe can allow long clips: 48 kHz, two
#: channels, three copies.
_MEMORY_A_SECOND = 48_000 * 2 * 4 * 3
#: Processor seconds for a file, and how many of its bytes are worth one more: long videos are
#: large.
SECONDS, _BYTES_A_SECOND = 15, 200_000
#: How much longer than its processor seconds a file may take, on a machine that does other work
#: too.
_PATIENCE, _WALL_SECONDS = 8, 30
#: A process that something else ended (the machine short of memory, say) is replaced once, and the
#: file tried again.
_TRIES = 2
#: Exit code of a fork that wants to be replaced after its answer.
_WORN = 3
#: Bytes of a question's number.
_NUMBER = 8


class Decoder:
    """Measures media files in another process.

    A context manager. The process starts with the first file.
    """

    def __init__(self, settings: MeasureSettings) -> None:
        self._settings = pickle.dumps(settings)
        self._running: tuple[subprocess.Popen[bytes], Connection] | None = None
        self._asked = 0
        self._expected: deque[MediaFile] = deque()
        self._ahead: tuple[int, MediaFile] | None = None

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def expect(self, files: Iterable[MediaFile]) -> None:
        """Say which files are measured next. Each is decoded ahead, one at a time, so that the
        process need not wait for whoever asks; some may be left out, and others come between."""
        self._expected = deque(files)

    def measure(self, file: MediaFile) -> Measured:
        """Decode a file and say what it holds.

        Raises:
            MediaError: it cannot be used, it takes too much time or memory, or the decoder crashes
                on it.
            VitaError: no process can be started.
        """
        if file in self._expected:
            while self._expected.popleft() != file:
                pass
        code = 0
        for _ in range(_TRIES):
            answer = self._ask(file)
            if isinstance(answer, Measured):
                return answer
            if isinstance(answer, MediaError):
                raise answer
            code = answer
            if code in (-signal.SIGXCPU, -signal.SIGALRM):
                raise MediaError(
                    "takes too long",
                    f"{file.path}: decoding takes more than {_seconds_for(file.path)} s "
                    "of processor time, or waits for something",
                )
        raise MediaError(
            f"unreadable {file.kind}", f"{file.path}: the decoder ended with {ending(code)}"
        )

    def close(self) -> None:
        """End the process."""
        if self._running is None:
            return
        (process, pipe), self._running, self._ahead = self._running, None, None
        pipe.close()  # which ends it
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _ask(self, file: MediaFile) -> Measured | MediaError | int:
        """Return what the process answers; the exit code of a fork that ended without an answer."""
        for is_last in (False, True):
            process, pipe = self._running or self._start()
            try:
                number = (
                    self._ahead[0]
                    if self._ahead and self._ahead[1] == file
                    else self._sent(pipe, file)
                )
                self._ahead = None
                if self._expected:
                    self._ahead = self._sent(pipe, self._expected[0]), self._expected[0]
                while True:
                    asked, answer = pipe.recv()
                    # 0: of a fork that ended between two files. Other numbers are of files that
                    # were asked for ahead and were not wanted
                    if asked in (number, 0):
                        return answer
            except Exception:  # it was ended from outside, in the middle of an answer perhaps
                self.close()
                if process.returncode == 0:  # it went after its fork had been killed
                    return -signal.SIGKILL
                if is_last:
                    raise VitaError(
                        "the process that decodes media ended, or could not be started",
                        code="VT-FAIL-001",
                        where=str(file.path),
                        remedy="see above for its own message, and to the machine's memory",
                    ) from None
        raise AssertionError("unreachable")

    def _sent(self, pipe: Connection, file: MediaFile) -> int:
        """Ask for a file; return the number of the question."""
        self._asked += 1
        pipe.send((self._asked, file, self._settings))
        return self._asked

    def _start(self) -> tuple[subprocess.Popen[bytes], Connection]:
        ours, theirs = socket.socketpair()
        paths = (str(Path(vita_train.__file__).parents[1]), os.environ.get("PYTHONPATH"))
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            )
        self._running = process, Connection(ours.detach())
        return self._running


def main(pipe: Connection) -> None:
    """Keep a fork at work, and answer for those that files end, until the pipe closes."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # the one who asks is interrupted, and closes the pipe
    at_work = mmap.mmap(-1, _NUMBER)  # shared with the forks
    while True:
        pid = os.fork()
        if pid == 0:
            try:
                _serve(pipe, at_work)
            finally:
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        # Killed from outside, it may have answered already, or half: nothing more fits in the pipe.
        if code in (0, -signal.SIGKILL):
            return
        if code != _WORN:
            with suppress(OSError):
                pipe.send((int.from_bytes(at_work[:], "little"), code))


def _serve(pipe: Connection, at_work: mmap.mmap) -> None:
    """Answer for files until the pipe closes. Never returns.

    Args:
        pipe: to the one who asks.
        at_work: takes the number of the question that is worked on; 0 between two.
    """
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries in C write about damaged files there
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _one_thread()
    taken = _memory_taken()
    while True:
        at_work[:] = bytes(_NUMBER)
        try:
            asked, file, packed = pipe.recv()
        except (EOFError, OSError):
            os._exit(0)
        at_work[:] = asked.to_bytes(_NUMBER, "little")
        settings = _unpacked(packed)
        _limit_memory(taken, max(MEMORY, int(settings.data.audio.max_seconds * _MEMORY_A_SECOND)))
        seconds = _seconds_for(file.path)
        _limit_time(seconds)
        signal.alarm(seconds * _PATIENCE + _WALL_SECONDS)
        try:
            answer: Measured | MediaError = measure(file, settings)
        except MediaError as error:
            answer = error
        signal.alarm(0)
        _limit_time(3600)  # nothing may end it while it answers
        pipe.send((asked, answer))
        if isinstance(answer, MediaError) and answer.reason == "too large":
            os._exit(_WORN)  # what could not be allocated may have left no room for the next file


@lru_cache(maxsize=4)
def _unpacked(packed: bytes) -> MeasureSettings:
    settings: MeasureSettings = pickle.loads(packed)
    return settings


def _seconds_for(path: Path) -> int:
    """Processor seconds that a file may take."""
    try:
        return SECONDS + path.stat().st_size // _BYTES_A_SECOND
    except (OSError, ValueError):
        return SECONDS


def _one_thread() -> None:
    """Keep decoders from threads, whose stacks would count as memory, as many as the machine has
    cores."""
    with suppress(ImportError):
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def _memory_taken() -> int | None:
    """Bytes of private memory that this process has; None where the system does not say."""
    with suppress(OSError, ValueError, StopIteration):
        status = Path("/proc/self/status").read_text()
        return (
            next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData:"))
            * 1024
        )
    return None


def _limit_memory(taken: int | None, room: int) -> None:
    """Let this process take so many bytes more than it had."""
    if taken is not None:
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        with suppress(ValueError):
            resource.setrlimit(resource.RLIMIT_DATA, (taken + room, most))


def _limit_time(seconds: int) -> None:
    """Have this process ended (SIGXCPU) when it has used so many processor seconds more."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    with suppress(ValueError):
        resource.setrlimit(
            resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1 + seconds, most)
        )


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])))
