"""How another process ended, in words."""

from __future__ import annotations

import signal
from contextlib import suppress

#: What a processor that lacks an instruction asks for; running the same again ends the same.
LACKS_INSTRUCTION = (
    "this processor lacks an instruction that was used: unset ATEN_CPU_CAPABILITY, or install "
    "packages that are built for it"
)
_REMEDIES = {
    -signal.SIGKILL: "usually memory: let less run beside it, or ask for less",
    -signal.SIGILL: LACKS_INSTRUCTION,
}


def ending(code: int) -> str:
    """Return a process's return code in words: ``exit code 2``, ``signal SIGKILL``."""
    with suppress(ValueError):
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"signal {-code}"


def last_words(code: int, stderr: str) -> str:
    """Return why a process of ours failed: its last line, or what ended it where it could not say.

    Args:
        code: its return code, not 0.
        stderr: what it wrote there.
    """
    if code < 0:
        remedy = _REMEDIES.get(code)
        return f"ended by {ending(code)}" + (f" ({remedy})" if remedy else "")
    return (stderr.strip().splitlines() or [f"{ending(code)} without a word"])[-1]
