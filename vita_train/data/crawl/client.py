"""One URL to one file: redirects, limits, deadlines, robots and retries."""

from __future__ import annotations

import asyncio
import io
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO
from urllib.robotparser import RobotFileParser

import httpcore2 as httpcore
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from vita_train import __version__
from vita_train.data.crawl.addresses import Guarded
from vita_train.data.crawl.settings import PASSING, CrawlSettings, Limits, Lost, Reason
from vita_train.data.crawl.target import Target, parse

AGENT = "vita-train"
_REDIRECTS = (301, 302, 303, 307, 308)
_ROBOTS_BYTES, _ROBOTS_SECONDS = 500 << 10, 10.0
#: The most seconds between two requests to a host that its robots.txt may ask for.
_LONGEST_DELAY = 60.0


class _Host:
    """The turn of each request to a host."""

    def __init__(self, limits: Limits) -> None:
        self.interval = 1 / limits.rate
        self._free = asyncio.Semaphore(limits.per_host)
        self._next = 0.0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn."""
        async with self._free:
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + self.interval
            if start > now:
                await asyncio.sleep(start - now)
            yield


class Client:
    """Fetches URLs, politely. An async context manager; one of each process."""

    def __init__(self, settings: CrawlSettings, limits: Limits) -> None:
        self._settings, self._limits = settings, limits
        self._slots = asyncio.Semaphore(limits.concurrency)
        self._hosts: dict[str, _Host] = {}
        self._robots: dict[str, asyncio.Task[RobotFileParser | None]] = {}
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl.create_default_context(cafile=settings.ca_file or None),
            # Its own queue is never waited in: there is a slot before each request.
            max_connections=2 * limits.concurrency,
            max_keepalive_connections=limits.concurrency,
            keepalive_expiry=15.0,
            network_backend=Guarded(private=settings.private),
        )

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.aclose()

    async def fetch(self, url: str, path: Path) -> None:
        """Write what a URL holds to a file.

        Raises:
            Lost: it cannot be had.
        """
        for left in reversed(range(self._limits.tries)):
            try:
                return await self._follow(parse(url), path)
            except Lost as lost:
                if not left or lost.reason not in PASSING:
                    raise
                backoff = self._limits.backoff * 2 ** (self._limits.tries - 1 - left)
                await asyncio.sleep(min(max(lost.wait, backoff), self._limits.longest_wait))

    async def _follow(self, target: Target, path: Path) -> None:
        left = self._limits.total
        for _ in range(self._settings.redirects + 1):
            if self._settings.robots and not await self._allowed(target):
                raise Lost(Reason.ROBOTS)
            async with self._host(target).turn(), self._slots:
                started = time.monotonic()
                with path.open("wb") as out:
                    location = await self._get(target, out, self._settings.max_bytes, left)
                left -= time.monotonic() - started
            if location is None:
                return
            target = target.joined(location)
        raise Lost(Reason.REDIRECTS)

    def _host(self, target: Target) -> _Host:
        found = self._hosts.get(target.host)
        if found is None:
            found = self._hosts[target.host] = _Host(self._limits)
        return found

    async def _get(self, target: Target, out: BinaryIO, most: int, seconds: float) -> str | None:
        """Write the body of an answer; return where a redirect leads instead.

        Raises:
            Lost: neither comes of it.
        """
        try:
            async with asyncio.timeout(seconds):
                return await self._ask(target, out, most)
        except (TimeoutError, httpcore.ReadTimeout, httpcore.WriteTimeout):
            raise Lost(Reason.TOO_SLOW) from None
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
            raise Lost(Reason.INSECURE if _untrusted(error) else Reason.UNREACHABLE) from None
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError):
            raise Lost(Reason.CUT_OFF) from None
        except (httpcore.UnsupportedProtocol, ValueError):
            raise Lost(Reason.BAD_URL) from None

    async def _ask(self, target: Target, out: BinaryIO, most: int) -> str | None:
        url = httpcore.URL(
            scheme=target.scheme.encode(),
            host=target.host.encode(),
            port=target.port,
            target=target.path.encode(),
        )
        headers = [
            (b"Host", target.netloc.encode()),
            (b"User-Agent", f"{AGENT}/{__version__}".encode()),
            (b"Accept-Encoding", b"identity"),
        ]
        waits = {"connect": self._limits.connect}
        async with self._pool.stream(
            "GET", url, headers=headers, extensions={"timeout": waits}
        ) as answer:
            named = {name.lower(): value for name, value in answer.headers}
            if answer.status in _REDIRECTS and b"location" in named:
                return named[b"location"].decode("utf-8", "replace")
            if answer.status != 200:
                raise Lost(*_refusal(answer.status, named.get(b"retry-after", b"")))
            stated = named.get(b"content-length", b"")
            if stated.isdigit() and int(stated) > most:
                raise Lost(Reason.TOO_LARGE)
            size = 0
            async for piece in answer.aiter_stream():
                size += len(piece)
                if size > most:
                    raise Lost(Reason.TOO_LARGE)
                out.write(piece)
        return None

    async def _allowed(self, target: Target) -> bool:
        task = self._robots.get(target.origin)
        if task is None:
            task = self._robots[target.origin] = asyncio.create_task(self._read_robots(target))
        rules = await asyncio.shield(task)  # others wait for it too
        return rules is None or rules.can_fetch(AGENT, target.url)

    async def _read_robots(self, target: Target) -> RobotFileParser | None:
        """Return the rules of a site; None where it has none or cannot be reached, which its
        images then show. A server at fault means that nothing may be fetched (RFC 9309, 2.3.1)."""
        rules = RobotFileParser()
        body = io.BytesIO()
        page = replace(target, path="/robots.txt")
        try:
            for _ in range(self._settings.redirects + 1):
                async with self._slots:
                    location = await self._get(page, body, _ROBOTS_BYTES, _ROBOTS_SECONDS)
                if location is None:
                    break
                page = page.joined(location)
        except Lost as lost:
            if lost.reason not in (Reason.SERVER, Reason.BUSY):
                return None
            rules.parse(["User-agent: *", "Disallow: /"])
            return rules
        rules.parse(body.getvalue().decode("utf-8", "replace").splitlines())
        delay = rules.crawl_delay(AGENT)
        if delay is not None:
            host = self._host(target)
            host.interval = max(host.interval, min(float(delay), _LONGEST_DELAY))
        return rules


def _refusal(status: int, retry_after: bytes) -> tuple[Reason, float]:
    if status in (404, 410):
        return Reason.GONE, 0.0
    if status in (429, 503):
        return Reason.BUSY, _seconds(retry_after.decode("ascii", "replace"))
    if status >= 500 or status in (408, 425):
        return Reason.SERVER, 0.0
    return Reason.REFUSED, 0.0


def _seconds(retry_after: str) -> float:
    try:
        return max(0.0, Retry().parse_retry_after(retry_after)) if retry_after else 0.0
    except (HTTPError, ValueError):
        return 0.0


def _untrusted(error: BaseException | None) -> bool:
    """Say whether a certificate is why there is no connection."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False
