"""Errors a user reads: what went wrong, where, and what to do about it; and what each exit code
means.

Exit codes, the same for every command and for every rank of a training job:

====  ==========================================================================================
0     done
1     failed: a fault of ours or of the machine; the traceback is in the log that the message names
2     refused: wrong usage, a recipe or data that a check turned down, a gate that was not met
138   retryable: a peer was lost, a step hung, storage stayed away; run the same command again
143   stopped: asked to stop (SIGTERM), the state was saved first; run the same command again
====  ==========================================================================================
"""

from __future__ import annotations

from typing import Any

from vita_train.credentials import without_credentials
from vita_train.printable import printable_message

#: Environment variable: the command line that started the run, for remedies; without options that
#: choose steps.
COMMAND = "VITA_TRAIN_COMMAND"

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_REFUSED = 2
EXIT_RETRYABLE = 138
EXIT_STOPPED = 143


class VitaError(Exception):
    """Base of the errors that are shown as one message, never as a traceback.

    Args:
        what: what is wrong, a full clause without a final stop.
        where: file, line, row, tensor or setting it was found in; empty if there is none.
        remedy: what the reader can do now; empty only if nothing can be said.
        code: what stays when the words change: ``VT-DATA-012``. ``tools/error_codes.py`` gives it,
            and ``docs/reference/errors.md`` lists them all.
    """

    exit_code = EXIT_FAILED

    def __init__(self, what: str, *, code: str = "", where: str = "", remedy: str = "") -> None:
        what, where, remedy = (without_credentials(part) for part in (what, where, remedy))
        super().__init__(what, where, remedy)
        self.what = what
        self.code = code
        self.where = where
        self.remedy = remedy

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors cross process borders; the default would call the class without its keywords.
        return _restored, (type(self), self.what, self.code, self.where, self.remedy)

    def report(self) -> dict[str, Any]:
        """Return the error as plain values, as files and other processes get it; ``code`` is the
        exit code there."""
        return {
            "code": self.exit_code,
            "error": self.code,
            "what": self.what,
            "where": self.where,
            "remedy": self.remedy,
        }

    def __str__(self) -> str:
        location = f"{self.where}: " if self.where else ""
        remedy = f" ({self.remedy})" if self.remedy else ""
        code = f" [{self.code}]" if self.code else ""
        return printable_message(
            f"{location}{self.what}{remedy}{code}"
        )  # data may be part of any of them


def _restored(kind: type[VitaError], what: str, code: str, where: str, remedy: str) -> VitaError:
    return kind(what, code=code, where=where, remedy=remedy)


class UserError(VitaError):
    """The recipe, the data or the command line must change before this can work."""

    exit_code = EXIT_REFUSED


class RecipeError(UserError):
    """A recipe that cannot be resolved: unknown key, wrong type, contradiction."""


class DataError(UserError):
    """Data that a check turned down."""


class CheckpointError(UserError):
    """Weights that are missing, damaged or of another shape than the model."""


class GateError(UserError):
    """A stage finished but did not reach the measure its recipe demands."""


class StorageError(VitaError):
    """The store could not be read or written; trying again later may help."""

    exit_code = EXIT_RETRYABLE


class PeerLostError(VitaError):
    """Another rank of the job went away or stopped answering."""

    exit_code = EXIT_RETRYABLE


class StoppedError(VitaError):
    """The job was asked to stop and has saved its state."""

    exit_code = EXIT_STOPPED


CLASS_OF_EXIT: dict[int, type[VitaError]] = {
    EXIT_REFUSED: UserError,
    EXIT_FAILED: VitaError,
    EXIT_RETRYABLE: PeerLostError,
    EXIT_STOPPED: StoppedError,
}
"""What another process's exit code is raised as here."""
