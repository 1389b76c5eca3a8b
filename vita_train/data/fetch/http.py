"""Files over HTTP(S), by urllib3: ranges, conditions, redirects, proxies, refusals."""

from __future__ import annotations

import re
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError, SSLError
from urllib3.util import Retry, Timeout

from vita_train import __version__
from vita_train.data.fetch.origin import BUFFER, AwayError, Body
from vita_train.errors import StorageError, UserError

_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 10
#: Answers that may be others later. 403 is none of them.
_LATER = {408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524}
_CONNECT_SECONDS, _READ_SECONDS = 10.0, 60.0
_LENGTH = re.compile(r"[0-9]{1,18}")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)")
_WHOLE_RANGE = re.compile(r"bytes \*/([0-9]{1,18})")
#: Longest wait that a server may ask for, in seconds.
_LONGEST_RETRY_AFTER = 600.0
_pools = threading.Lock()


@dataclass(frozen=True)
class HttpOrigin:
    """A file at a URL.

    Redirects are followed, to HTTPS from HTTPS only, and the credentials of ``headers`` go to the
    host of ``url`` alone.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Sent with each request; a token may be among them, so they are never shown."""
    refused: str = "open the page in a browser to see what it asks for; a token for your account \
may be needed"
    """Remedy where access is refused."""
    missing: str = "correct the URL"
    """Remedy where there is no such file."""

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    @property
    def where(self) -> str:
        return self.url

    def open(self, start: int, validator: str) -> Body:
        headers = {**self.headers, "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if validator and not validator.startswith("W/"):
                headers["If-Range"] = validator
        answer = self._ask("GET", headers)
        if answer.status == 416:
            answer.close()
            whole = _WHOLE_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            if whole and int(whole[1]) == start:  # all of it is here already
                return Body(start, start, validator, iter(()))
            raise AwayError("the server cannot send the rest of the file")
        return self._body(answer, start, validator)

    def _body(self, answer: Any, start: int, validator: str) -> Body:
        now = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        total = _length(answer)
        if answer.status == 200:
            return Body(0, total, now, _chunks(answer))
        found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != start or (validator and now and now != validator):
            answer.close()
            if start:  # another part, or a part of another version: all of it, then
                return self.open(0, "")
            raise AwayError("the server sent a part of the file that was not asked for")
        return Body(
            start, int(found[2]) if found[2] != "*" else None, now or validator, _chunks(answer)
        )

    def probe(self) -> int | None:
        answer = self._ask("HEAD", {**self.headers, "Accept-Encoding": "identity"})
        answer.close()
        return _length(answer) if answer.status == 200 else None

    def read(self, most: int) -> bytes:
        """Return the whole answer, of at most so many bytes; for listings.

        Raises:
            AwayError, UserError: as of `open`.
        """
        answer = self._ask("GET", dict(self.headers))
        try:
            data: bytes = answer.read(most + 1, decode_content=True)
        except (HTTPError, OSError) as error:
            raise AwayError(_reason(error)) from error
        finally:
            answer.close()
        if len(data) > most:
            raise AwayError("the answer is too long")
        return data

    def _ask(self, method: str, headers: dict[str, str]) -> Any:
        """Return an answer of status 200, 206 or 416, after redirects; a HEAD may also be answered
        by 405 or 501."""
        url = self.url
        for _ in range(_MOST_REDIRECTS):
            answer = _request(method, url, headers)
            if answer.status in _REDIRECTS and answer.headers.get("Location"):
                answer.close()
                url, headers = self._follow(url, answer.headers["Location"], headers)
                continue
            if answer.status in (200, 206, 416) or (
                method == "HEAD" and answer.status in (405, 501)
            ):
                return answer
            answer.close()
            self._refuse(answer)
        raise UserError(
            f"is redirected more than {_MOST_REDIRECTS} times",
            code="VT-USE-186",
            where=self.url,
            remedy="check the URL in a browser",
        )

    def _follow(
        self, url: str, location: str, headers: dict[str, str]
    ) -> tuple[str, dict[str, str]]:
        try:
            to = urljoin(url, location)
            scheme, host = urlsplit(to).scheme, urlsplit(to).netloc
        except ValueError:
            to = scheme = host = ""
        if urlsplit(url).scheme == "https" and scheme == "http":
            raise UserError(
                "the server redirects from https to http, where anyone on the way could change "
                "the files",
                code="VT-USE-187",
                where=self.url,
                remedy="find the https address of the file, or fetch it elsewhere and use a "
                "file: source",
            )
        if scheme not in ("http", "https") or not host:
            raise UserError(
                "the server redirects to what is no http(s) address",
                code="VT-USE-188",
                where=self.url,
                remedy="check the URL in a browser",
            )
        if host != urlsplit(url).netloc:
            headers = {
                name: value
                for name, value in headers.items()
                if name.lower() not in ("authorization", "cookie")
            }
        return to, headers

    def _refuse(self, answer: Any) -> None:
        status = answer.status
        if status in _LATER:
            raise AwayError(f"the server answers {status}", _retry_after(answer))
        if status in (401, 403, 407):
            seen = any(name.lower() == "authorization" for name in self.headers)
            raise UserError(
                f"access is refused ({status}); "
                + ("a token was sent" if seen else "no token was sent"),
                code="VT-USE-189",
                where=self.url,
                remedy=self.refused,
            )
        if status in (404, 410):
            raise UserError(
                f"there is no such file ({status})",
                code="VT-USE-190",
                where=self.url,
                remedy=self.missing,
            )
        raise UserError(
            f"the server refuses the request ({status})",
            code="VT-USE-191",
            where=self.url,
            remedy="check the URL in a browser",
        )


def _request(method: str, url: str, headers: dict[str, str]) -> Any:
    try:
        return _pool(urlsplit(url).scheme, urlsplit(url).hostname or "").request(
            method,
            url,
            headers={"User-Agent": f"vita-train/{__version__}", **headers},
            redirect=False,
            retries=False,
            preload_content=False,
            decode_content=False,
        )
    except SSLError as error:
        raise _untrusted(url, error) from error
    except (HTTPError, OSError) as error:
        cause = error.reason if isinstance(error, MaxRetryError) else error
        if isinstance(cause, SSLError) and "CERTIFICATE" in str(cause):
            raise _untrusted(url, cause) from error
        raise AwayError(_reason(error)) from error


def _untrusted(url: str, error: Exception) -> UserError:
    return UserError(
        f"no secure connection: {_reason(error)}",
        code="VT-USE-192",
        where=url,
        remedy="check the clock and the proxy; name a CA file of your own by SSL_CERT_FILE",
    )


@cache
def _manager(proxy: str) -> urllib3.PoolManager:
    settings: dict[str, Any] = {
        "timeout": Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS),
        "maxsize": 16,
        "block": False,
    }
    return urllib3.ProxyManager(proxy, **settings) if proxy else urllib3.PoolManager(**settings)


def _pool(scheme: str, host: str) -> urllib3.PoolManager:
    """Return connections to a host, through the proxy that the environment names for it."""
    proxy = urllib.request.getproxies().get(scheme, "")
    with _pools:
        return _manager("" if not proxy or urllib.request.proxy_bypass(host) else proxy)


def _chunks(answer: Any) -> Iterator[bytes]:
    try:
        while data := answer.read1(BUFFER):
            yield data
    except (HTTPError, OSError) as error:
        raise AwayError(f"the transfer broke off ({_reason(error)})") from error
    finally:
        answer.close()


def _length(answer: Any) -> int | None:
    found = _LENGTH.fullmatch(answer.headers.get("Content-Length", ""))
    return int(found[0]) if found else None


def _retry_after(answer: Any) -> float | None:
    text = answer.headers.get("Retry-After")
    if text is None:
        return None
    try:
        return min(max(0.0, Retry().parse_retry_after(text)), _LONGEST_RETRY_AFTER)
    except HTTPError:
        return None


def _reason(error: Exception) -> str:
    """Return what an error of the network says, in one line, without the addresses of objects."""
    return re.sub(r"<[^>]* object at 0x[0-9a-f]+>:? ?", "", " ".join(str(error).split()))[:200]


def away(where: str, error: AwayError, remedy: str = "") -> StorageError:
    """Return the error of a server that stayed away."""
    return StorageError(
        f"cannot be reached: {error.reason}",
        code="VT-STORE-010",
        where=where,
        remedy=remedy
        or "check the network and the proxy (HTTPS_PROXY), then run the same command again",
    )
