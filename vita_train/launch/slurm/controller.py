"""SLURM's controller through its own commands: submit, look, signal, cancel."""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from vita_train.errors import PeerLostError, UserError

COMMANDS = ("sbatch", "squeue", "scontrol", "scancel")
#: Seconds that one command may take.
_CALL = 60.0
_PAUSE = 2.0
#: What the commands say when the controller cannot be reached, or answers too late.
_AWAY = re.compile(
    r"unable to contact|timed out|connection refused|connection reset|connect failure|zero bytes"
    r"|insane message|communication|in standby mode|try again|temporarily",
    re.IGNORECASE,
)
_UNKNOWN = re.compile(r"invalid job id", re.IGNORECASE)
_FIELD = re.compile(
    r"(?:^|\s)(JobState|Reason|ExitCode|Restarts|NodeList|PreemptTime|TimeLimit)=(\S*)"
)
#: Base states in which a job stays as it is.
_OVER = frozenset(
    {
        *("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL"),
        *("DEADLINE", "OUT_OF_MEMORY", "REVOKED"),
    }
)


class AwayError(Exception):
    """The controller did not answer; whether it did what it was told is not known."""


@dataclass(frozen=True)
class JobState:
    """A job as the controller sees it."""

    state: str
    """As ``scontrol show job`` names it."""
    reason: str
    """Why it waits, or why it ended."""
    code: int
    """Exit code of its script."""
    signal: int
    """Signal that ended its script; 0 for none."""
    restarts: int
    """How often it was put back into the queue."""
    nodes: str
    is_preempted: bool = False
    """Whether another job was to take its place."""
    has_limit: bool = True
    """Whether it may run for a certain time only."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended for good."""
        return self.state in _OVER


class Controller:
    """The controller that the environment's ``SLURM_CONF`` names.

    Args:
        outage: seconds it may stay away before a call gives up.
    """

    def __init__(self, outage: float) -> None:
        self._outage = outage

    def submit(self, script: Path) -> int:
        """Submit a script; return the job's number.

        Raises:
            AwayError: there was no answer. The job may be there or not.
            UserError: it is refused; SLURM's own words.
        """
        done = _run("sbatch", "--parsable", str(script))
        if done.returncode != 0:
            raise UserError(
                f"SLURM refuses the job: {_words(done)}",
                code="VT-USE-260",
                where=str(script),
                remedy="correct launch.settings.slurm; sbatch --test-only tries the script",
            )
        # number;cluster where there are several clusters
        return int(done.stdout.strip().partition(";")[0])

    def find(self, name: str) -> list[tuple[int, str]]:
        """Return number and comment of this user's jobs of a name that are not over."""
        listed = self._call("squeue", "--me", "--noheader", f"--name={name}", "--format=%i %k")
        rows = (line.split(maxsplit=1) for line in listed.splitlines() if line.strip())
        return sorted((int(row[0]), row[1].strip() if len(row) > 1 else "") for row in rows)

    def look(self, job: int) -> JobState | None:
        """Return the state of a job; None once the controller has forgotten it."""
        shown = self._call("scontrol", "--oneliner", "show", "job", str(job))
        return parse_job(shown) if shown else None

    def stop(self, job: int) -> None:
        """Tell the job's steps to stop; one that is over is left at that."""
        self._call("scancel", "--quiet", "--signal=TERM", str(job))

    def cancel(self, job: int) -> None:
        """Take a job away, whether it waits or runs; one that is over is left at that."""
        self._call("scancel", "--quiet", str(job))

    def _call(self, *command: str) -> str:
        """Return what a command prints, empty for a job that is not known.

        Raises:
            PeerLostError: the controller stayed away for too long.
            UserError: the command is refused.
        """
        deadline = time.monotonic() + self._outage
        while True:
            try:
                done = _run(*command)
            except AwayError as error:
                if time.monotonic() >= deadline:
                    raise PeerLostError(
                        f"SLURM's controller has been away for {self._outage:.0f} s: {error}",
                        code="VT-PEER-010",
                        where=command[0],
                        remedy="run the same command again once it answers; the job goes on",
                    ) from error
                time.sleep(_PAUSE)
                continue
            if done.returncode == 0:
                return done.stdout
            if _UNKNOWN.search(done.stderr):
                return ""
            raise UserError(
                f"SLURM refuses: {_words(done)}",
                code="VT-USE-261",
                where=" ".join(command),
                remedy="see that this user may use the cluster",
            )


def parse_job(shown: str) -> JobState:
    """Read the line of ``scontrol --oneliner show job``."""
    fields = dict(_FIELD.findall(shown))
    code, _, signal = fields.get("ExitCode", "0:0").partition(":")
    return JobState(
        fields.get("JobState", ""),
        fields.get("Reason", ""),
        int(code),
        int(signal or 0),
        int(fields.get("Restarts", "0")),
        fields.get("NodeList", ""),
        fields.get("PreemptTime", "None") != "None",
        fields.get("TimeLimit") != "UNLIMITED",
    )


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_CALL,
            check=False,
            # A signal to the launcher's group must not end a command half-way
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise UserError(
            f"there is no command {command[0]}",
            code="VT-USE-262",
            where="launch.backend",
            remedy="start from a machine that has SLURM's client commands",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise AwayError(f"{command[0]} did not answer in {_CALL:.0f} s") from error
    if done.returncode != 0 and _AWAY.search(done.stderr):
        raise AwayError(_words(done))
    return done


def _words(done: subprocess.CompletedProcess[str]) -> str:
    return "; ".join(line.strip() for line in done.stderr.splitlines() if line.strip())
