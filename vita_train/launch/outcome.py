"""Why a job ended: the ranks' error files and torchrun's log, turned into one error that says what
to do.

A rank that fails on purpose leaves ``rank-<r>.error.json`` with ``code, what, where, remedy``. A
rank that was killed leaves nothing; torchrun's log then holds its exit code.
"""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

from vita_train.ended import LACKS_INSTRUCTION
from vita_train.errors import (
    CLASS_OF_EXIT,
    EXIT_FAILED,
    EXIT_REFUSED,
    EXIT_RETRYABLE,
    EXIT_STOPPED,
    PeerLostError,
    VitaError,
)
from vita_train.printable import printable
from vita_train.storage.disk_errors import full_disk

#: File in which a node of a job says why it failed; a job backend names one for each node.
LAST_WORDS = "VITA_TRAIN_TERMINATION_LOG"

#: A refusal explains a peer's crash, a crash explains a lost peer, and a lost peer explains one
#: that was stopped.
_ORDER = (EXIT_REFUSED, EXIT_FAILED, EXIT_RETRYABLE, EXIT_STOPPED)
_EXIT_CODE = re.compile(r"^\s*exitcode\s*:\s*(-?\d+)", re.MULTILINE)
#: First line of torchrun's own account of a failure; what a rank said comes before it.
_EPILOGUE = re.compile(r"^\S.*torch/distributed/elastic/.* failed \(exitcode", re.MULTILINE)
_TAIL_LINES = 12


#: What a line of a job's output begins with that holds an error; ranks write it beside their error
#: files.
_REPORT = "vita-train-error "


def report_line(error: VitaError) -> str:
    """Return an error as a line that `explain` finds in a job's output."""
    return _REPORT + json.dumps(error.report())


def forget_outcomes(logs: Path) -> None:
    """Remove the error files of an earlier attempt."""
    for path in logs.glob("rank-*.error.json"):
        path.unlink(missing_ok=True)


def explain(logs: Path, launcher_output: str) -> VitaError:
    """Return the error that explains a failed job.

    Args:
        logs: the stage's log directory.
        launcher_output: what torchrun printed in this attempt.
    """
    reports = [report for path in sorted(logs.glob("rank-*.error.json")) if (report := _read(path))]
    reports += [
        report
        for line in launcher_output.splitlines()
        if _REPORT in line
        if (report := _parsed(line.partition(_REPORT)[2]))
    ]
    for code in _ORDER:
        for report in reports:
            if report["code"] == code:
                return _error(code, report, logs)
    if full := full_disk(logs):  # no rank could say so
        return full
    codes = [int(code) for code in _EXIT_CODE.findall(launcher_output)]
    # SIGTERM is what torchrun ends the others with
    killed = [-code for code in codes if code < 0 and code != -signal.SIGTERM]
    if signal.SIGILL in killed:  # not a lost peer: the next attempt would end the same
        return VitaError(
            "a process of the job was killed by SIGILL",
            code="VT-FAIL-030",
            where=str(_last_log(logs)),
            remedy=LACKS_INSTRUCTION,
        )
    if killed:
        return PeerLostError(
            f"a process of the job was killed by {signal.Signals(killed[0]).name}",
            code="VT-PEER-002",
            where=str(_last_log(logs)),
            remedy="usually memory: lower batch.global_batch_size or raise batch.grad_accum, then "
            "run "
            "it again",
        )
    for code in _ORDER[2:]:
        if code in codes:
            return CLASS_OF_EXIT[code](
                "a process of the job ended so without saying why",
                code="VT-FAIL-020",
                where=str(_last_log(logs)),
                remedy="run the same command again",
            )
    log = _last_log(logs)
    return VitaError(
        f"the job failed; its log ends\n{tail(log)}", code="VT-FAIL-003", where=str(log)
    )


def node_failure(code: int, last_words: Path, logs: Path) -> VitaError | None:
    """Return why the command of a node failed; None where it did not.

    Args:
        code: its exit code; below 0, the signal that killed it.
        last_words: the file that `LAST_WORDS` named.
        logs: where a reader finds what it printed.
    """
    if code == 0:
        return None
    if report := _read(last_words):
        return CLASS_OF_EXIT[int(str(report["code"]))](
            str(report.get("what") or "failed"),
            code=str(report.get("error") or ""),
            where=str(report.get("where")),
            remedy=str(report.get("remedy") or f"the log is {logs}"),
        )
    # A signal is what a lost machine, or one that was taken away, ends with.
    return CLASS_OF_EXIT.get(EXIT_RETRYABLE if code < 0 else code, VitaError)(
        f"the command of a node ended with status {code} and said no more",
        code="VT-FAIL-021",
        where=str(logs),
    )


def tail(path: Path, lines: int = _TAIL_LINES) -> str:
    """Return the last lines of a log, indented; empty if there is no such file."""
    if not path.exists():
        return ""
    text = path.read_text(encoding="utf-8", errors="replace")
    if epilogues := list(_EPILOGUE.finditer(text)):
        text = text[: epilogues[-1].start()]
    return "\n".join(f"  | {printable(line)}" for line in text.rstrip().splitlines()[-lines:])


def _error(code: int, report: dict[str, object], logs: Path) -> VitaError:
    remedy = str(report.get("remedy") or "")
    if code == EXIT_FAILED and not remedy:
        remedy = f"the log is {_last_log(logs)}"
    return CLASS_OF_EXIT[code](
        str(report.get("what") or "failed"),
        code=str(report.get("error") or ""),
        where=str(report.get("where") or ""),
        remedy=remedy,
    )


def _read(path: Path) -> dict[str, object] | None:
    """Return an error file's content, or None when the process died while writing it."""
    try:
        return _parsed(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _parsed(text: str) -> dict[str, object] | None:
    try:
        report = json.loads(text)
    except ValueError:
        return None
    return report if isinstance(report, dict) and report.get("code") in _ORDER else None


def _last_log(logs: Path) -> Path:
    """Return the rank log written last, or torchrun's when no rank came to write."""
    ranks = [path for path in logs.glob("rank-*.log") if path.stat().st_size]
    return max(
        ranks, key=lambda path: (path.stat().st_mtime, path.name), default=logs / "launcher.log"
    )
