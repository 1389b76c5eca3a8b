"""What a crawl is allowed to do, and the closed list of reasons why it has no image for a URL."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Kind = Literal["urls", "mmc4"]


class Reason(StrEnum):
    """Why there is no image for a URL, or no record for a row. Ledgers hold no other words."""

    BAD_URL = "bad url"
    PRIVATE = "private address"
    UNKNOWN_HOST = "unknown host"
    ROBOTS = "robots"
    UNREACHABLE = "unreachable"
    INSECURE = "bad certificate"
    TOO_SLOW = "too slow"
    GONE = "gone"
    REFUSED = "refused"
    BUSY = "busy"
    SERVER = "server error"
    REDIRECTS = "too many redirects"
    TOO_LARGE = "too large"
    CUT_OFF = "cut off"
    NOT_AN_IMAGE = "not an image"
    TOO_MANY_PIXELS = "too many pixels"
    BAD_ROW = "unreadable row"
    NO_URL = "no url"
    TOO_FEW = "too few images"


#: Reasons that another try may not meet.
PASSING = frozenset({Reason.UNREACHABLE, Reason.BUSY, Reason.SERVER, Reason.CUT_OFF})


class Lost(Exception):  # noqa: N818 (an outcome that is counted, never an error that is shown)
    """There is no image for a URL.

    Args:
        reason: one of the list.
        wait: seconds that the server asks to be left alone for.
    """

    def __init__(self, reason: Reason, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait = wait


@dataclass(frozen=True)
class Limits:
    """What a crawl takes of the network; none of it changes what an image becomes."""

    concurrency: int = 256
    """Requests at a time, of each process."""
    per_host: int = 8
    """Requests at a time to one host, of each process."""
    rate: float = 20.0
    """Requests a second to one host, of all processes together."""
    connect: float = 10.0
    """Seconds until a connection stands."""
    total: float = 60.0
    """Seconds for a URL with its redirects; waiting for the turn of its host does not count."""
    tries: int = 3
    backoff: float = 1.0
    """Seconds before the second try; each later one waits twice as long."""
    longest_wait: float = 60.0
    """The most seconds that a server may ask to wait."""


@dataclass(frozen=True)
class CrawlSettings:
    """What is fetched, and what becomes of it. These decide what is written."""

    kind: Kind = "urls"
    """``urls``: rows with a URL each. ``mmc4``: documents with ``image_info``."""
    column: str = "url"
    """Where the URL of a row stands."""
    at_least: int = 0
    """Images that a document must keep; 0 asks for all."""
    short_side: int = 336
    """Pixels; larger images are made smaller, none is enlarged."""
    quality: int = 75
    """Of JPEG, Pillow's own default."""
    max_bytes: int = 20 << 20
    redirects: int = 5
    robots: bool = True
    private: bool = False
    """Let private, local and reserved addresses be asked: for webs of one's own."""
    ca_file: str = ""
    """Certificates to trust in place of the system's."""
