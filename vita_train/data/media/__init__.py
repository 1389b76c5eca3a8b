"""Images, videos and audio: decoding, and what the model is given of them."""

from __future__ import annotations

from typing import Any


class MediaError(ValueError):
    """A file that cannot be used.

    Args:
        reason: short category, for counting.
        detail: what is wrong with this file, its name included.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors come back from the processes that decode; the default would call the class with the
        # detail alone.
        return MediaError, (self.reason, self.detail)
