"""Is an answer S3's at all? Login pages, proxies and other servers answer with status 200 too.

An answer in which nothing is found reads like an empty list, and a page like a file: both would be
believed. What S3 always says, and a page never does, is asked for here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vita_train.errors import StorageError

Answer = Mapping[str, Any]

# A store may answer with an empty page where all that it looked at has been deleted; Ceph does. So
# many one after the other mean that the server makes up a new token each time, without end.
MAX_EMPTY_PAGES = 1000


def checked(answer: Answer, uri: str) -> Answer:
    """Return the answer to a GET, HEAD or PUT of an object, all of which have an ETag.

    Raises:
        StorageError: it has none.
    """
    if not answer.get("ETag"):
        raise _not_s3("no ETag", uri)
    return answer


def checked_items(
    pages: Iterable[Answer], member: str, prefix: str, uri: str
) -> tuple[dict[str, Any], ...]:
    """Return all items of a listing's pages.

    Args:
        pages: as they come.
        member: where a page has its items, ``Contents`` or ``Uploads``.
        prefix: what their keys are to begin with.
        uri: of the store.

    Raises:
        StorageError: a page is no listing, lists other keys than were asked for or one of them
            twice, the last page says that there are more, or empty pages go on without end.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    more, empty = False, 0
    for page in pages:
        if "IsTruncated" not in page:
            raise _not_s3("no listing", uri)
        more = bool(page["IsTruncated"])
        items = page.get(member, [])
        empty = 0 if items else empty + 1
        if empty > MAX_EMPTY_PAGES:
            raise _not_s3(f"{empty} empty pages of a listing one after the other", uri)
        for item in items:
            name = str(item.get("Key", ""))
            if not name or not name.startswith(prefix):
                raise _not_s3(f"a listing with {name!r}, which was not asked for", uri)
            if (key := (name, str(item.get("UploadId", "")))) in found:
                raise _not_s3(f"a listing with {name!r} twice", uri)
            found[key] = item
    if more:
        raise _not_s3("a listing that ends before its end", uri)
    return tuple(found.values())


def _not_s3(what: str, uri: str) -> StorageError:
    return StorageError(
        f"the answer is not S3's: {what}",
        code="VT-STORE-008",
        where=uri,
        remedy="check storage.endpoint, and whether a "
        "proxy or a login page stands before it; then run the same command again",
    )
