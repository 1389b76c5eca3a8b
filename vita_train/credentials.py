"""Credentials inside URLs: refused wherever a URL is taken, and never shown."""

from __future__ import annotations

import re

#: What stands between the scheme and the host of a URL: ``user:password@``.
_USER = re.compile(r"(?<=://)[^/?#\s@'\"]*(?:@[^/?#\s@'\"]*)*@")
#: The same where there is no scheme: a text that is nothing but ``user:password@host``.
_BARE = re.compile(r"(?:\w+:)?(?://)?[^\s/:@=]+:[^\s/@]+@[\w.:\[\]-]+(?:/\S*)?")
#: Parameters of a URL that grant access.
_PARAMETER = re.compile(
    r"([?&#](?:[a-z-]*"
    r"(?:signature|credential|token|secret|password|accesskeyid|access_key|api_?key)"
    r"[a-z-]*|sig|key|auth|pass|passwd|pwd)=)[^&#\s'\"]+",
    re.IGNORECASE,
)
#: How credentials are given instead.
REMEDY = (
    "it would be kept in files and shown in messages; give credentials by AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, a profile (AWS_PROFILE), or a Secret of the cluster"
)


def holds_credentials(text: str) -> bool:
    """Say whether a text is or holds a URL with a user, a password or a key in it."""
    return bool(
        _USER.search(text)
        or ("://" in text and _PARAMETER.search(text))
        or _BARE.fullmatch(text.strip())
    )


def without_credentials(text: str) -> str:
    """Return a text with all credentials of the URLs in it taken out."""
    if "://" in text:
        return _PARAMETER.sub(r"\1***", _USER.sub("***@", text))
    place, equals, value = text.rpartition("=")  # a setting: its place and its value
    return (
        f"{place}{equals}***@{value.rpartition('@')[2]}" if _BARE.fullmatch(value.strip()) else text
    )
