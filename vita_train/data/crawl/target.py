"""URLs of the open web, taken apart as a request needs them."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

from vita_train.data.crawl.settings import Lost, Reason

_KEPT = "!#$%&'()*+,/:;=?@[]~"
_PORTS = {"http": 80, "https": 443}
#: Longer ones are refused by most servers.
_LONGEST = 8192


@dataclass(frozen=True)
class Target:
    """Where a request goes."""

    scheme: str
    host: str
    """In ASCII, without the brackets of IPv6."""
    port: int
    path: str
    """With the query, in ASCII."""

    @property
    def origin(self) -> str:
        """Scheme, host and port: what robots.txt and the politeness to a host go by."""
        return f"{self.scheme}://{self.netloc}"

    @property
    def netloc(self) -> str:
        """As the ``Host`` header has it."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == _PORTS[self.scheme] else f"{name}:{self.port}"

    @property
    def url(self) -> str:
        """The whole URL."""
        return f"{self.origin}{self.path}"

    def joined(self, location: str) -> Target:
        """Return where a redirect leads.

        Raises:
            Lost: nowhere, or from https to http.
        """
        try:
            to = parse(urljoin(self.url, location))
        except ValueError:
            raise Lost(Reason.BAD_URL) from None
        if self.scheme == "https" and to.scheme == "http":
            raise Lost(Reason.INSECURE)
        return to


def parse(url: str) -> Target:
    """Take a URL apart.

    Raises:
        Lost: it is none of http or https, or not well formed.
    """
    try:
        parts = urlsplit(url.strip())
        host = (parts.hostname or "").rstrip(".")
        if not host.isascii():
            host = host.encode("idna").decode()
        port = parts.port or _PORTS[parts.scheme]
    except (ValueError, KeyError):
        raise Lost(Reason.BAD_URL) from None
    path = quote(parts.path or "/", safe=_KEPT)
    if parts.query:
        path += f"?{quote(parts.query, safe=_KEPT)}"
    if not host or any(char <= " " for char in host) or len(path) > _LONGEST:
        raise Lost(Reason.BAD_URL)
    return Target(parts.scheme, host, port, path if path.startswith("/") else f"/{path}")
