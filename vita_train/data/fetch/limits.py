"""How many transfers run beside each other, and how long a server that is away is asked again."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Settings of transfers."""

    per_host: int = 4
    """Files at once from each host."""
    tries: int = 8
    """Times in a row that a transfer may fail without a byte more than before."""
    first_pause: float = 0.5
    longest_pause: float = 60.0

    def pause(self, failures: int, asked: float | None) -> float:
        """Return the seconds to wait after so many failures in a row: what the server asked for,
        else twice as long each time, and never the same for two transfers."""
        grown: float = min(self.longest_pause, self.first_pause * 2 ** (failures - 1))
        return max(asked or 0.0, grown * random.uniform(0.5, 1.0))


class Stop:
    """Tells all transfers of a fetch that one has failed for good."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Let the others end at their next buffer."""
        self._event.set()

    def __bool__(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float) -> None:
        """Wait, but no longer than until `set`."""
        self._event.wait(seconds)
