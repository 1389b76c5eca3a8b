"""Answers with status 200 that are not S3's: pages of a proxy, empty and cut ones, listings that
are untrue."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from tests.helpers.checkpoints import STAGE, assert_told, save, whole_step
from tests.helpers.errors import raises_code
from tests.helpers.s3_faults import FaultProxy, Headers, Lie
from vita_train.errors import EXIT_RETRYABLE, CheckpointError, StorageError
from vita_train.runs.final import final_key, read_final, write_final
from vita_train.runs.manifest import Manifest
from vita_train.storage.checkpoints.attempt import begin_attempt
from vita_train.storage.checkpoints.commit import PassedOver, latest_commit
from vita_train.storage.s3 import S3Store

LOGIN = (
    b"<!DOCTYPE html><html><head><title>Sign in</title></head><body><p>Please sign "
    b"in<br></body></html>"
)
XHTML = (
    b"<?xml version='1.0'?><html xmlns='http://www.w3.org/1999/xhtml'><body><p>Sign "
    b"in</p></body></html>"
)


def page(body: bytes, kind: str = "text/html") -> Lie:
    """In place of any answer, a page."""
    return lambda headers, true: ({"content-type": kind}, body)


def cut(headers: Headers, body: bytes) -> tuple[Headers, bytes]:
    """Half of a listing, said to be all of it."""
    return {"content-type": "application/xml"}, body[: len(body) // 2]


def cut_with_its_etag(headers: Headers, body: bytes) -> tuple[Headers, bytes]:
    """Half of an object, said to be all of it."""
    return {"etag": headers.get("etag", '"x"')}, body[: len(body) // 2]


def page_with_an_etag(headers: Headers, body: bytes) -> tuple[Headers, bytes]:
    """A page as a caching proxy sends it."""
    return {"etag": '"abc"', "content-type": "text/html"}, LOGIN


def longer_than_it_is(headers: Headers, body: bytes) -> tuple[Headers, bytes]:
    return {"etag": headers.get("etag", '"x"'), "content-length": str(len(body) + 7)}, body


def repeated() -> Lie:
    """Each page is the first one, and says that there is another."""
    pages = count()

    def lie(headers: Headers, body: bytes) -> tuple[Headers, bytes]:
        token = f"<NextContinuationToken>t{next(pages)}</NextContinuationToken>".encode()
        more = body.replace(
            b"<IsTruncated>false</IsTruncated>", b"<IsTruncated>true</IsTruncated>" + token
        )
        return {"content-type": "application/xml"}, more

    return lie


def unfinished(headers: Headers, body: bytes) -> tuple[Headers, bytes]:
    """There is more, and no way to ask for it."""
    return {"content-type": "application/xml"}, body.replace(b">false<", b">true<")


def of_another_store(headers: Headers, body: bytes) -> tuple[Headers, bytes]:
    return {"content-type": "application/xml"}, body.replace(b"<Key>runs/", b"<Key>others/")


PAGES: dict[str, Lie] = {
    "login": page(LOGIN),
    "xhtml": page(XHTML),
    "empty": page(b""),
    "json": page(b'{"ok": true}', "application/json"),
}
LISTINGS: dict[str, Lie] = {
    **PAGES,
    "cut": cut,
    "unfinished": unfinished,
    "others": of_another_store,
}


@pytest.mark.parametrize("name", [*LISTINGS, "repeated"])
def test_what_is_no_listing_is_never_taken_for_one(
    hasty: S3Store, direct: S3Store, proxy: FaultProxy, name: str
) -> None:
    for key in ("a/1", "a/2", "b/1"):
        direct.write(key, b"x")
    lie = LISTINGS.get(name) or repeated()
    lasting = proxy.spoil("lie", "GET .*list-type", lie=lie)
    with pytest.raises(StorageError) as caught:
        hasty.list("a/")
    assert lasting.seen > 1
    assert caught.value.exit_code == EXIT_RETRYABLE
    assert_told(caught.value, direct.uri)
    proxy.heal()
    proxy.spoil("lie", "GET .*list-type", times=1, lie=LISTINGS.get(name) or repeated())
    assert hasty.list("a/") == ["a/1", "a/2"]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_no_file(hasty: S3Store, direct: S3Store, proxy: FaultProxy, name: str) -> None:
    direct.write("there", b"x")
    fault = proxy.spoil("lie", "/runs/", lie=PAGES[name])
    for ask in (
        lambda: hasty.read("there"),
        lambda: hasty.exists("absent"),
        lambda: hasty.size("there"),
        lambda: hasty.write("new", b"y"),
    ):
        seen = fault.seen
        with pytest.raises(StorageError) as caught:
            ask()
        assert fault.seen > seen
        assert caught.value.exit_code == EXIT_RETRYABLE
        assert_told(caught.value, direct.uri)
    proxy.heal()
    assert not hasty.exists("absent")
    assert hasty.read("there") == b"x"


OBJECTS: dict[str, Lie] = {
    **PAGES,
    "cut": cut_with_its_etag,
    "etag": page_with_an_etag,
    "longer": longer_than_it_is,
}


@pytest.mark.parametrize("match", ["GET .*/committed/", "GET .*/manifest.json"])
@pytest.mark.parametrize("name", OBJECTS)
def test_what_is_no_marker_never_makes_a_stage_begin_anew(
    hasty: S3Store, direct: S3Store, proxy: FaultProxy, tmp_path: Path, name: str, match: str
) -> None:
    save(direct, begin_attempt(direct, STAGE), 10, tmp_path / "work")
    proxy.spoil("lie", match, lie=OBJECTS[name])
    noted: list[PassedOver] = []
    if name in PAGES:
        with pytest.raises(StorageError) as caught:
            latest_commit(hasty, STAGE, passed_over=noted)
        assert caught.value.exit_code == EXIT_RETRYABLE
        assert_told(caught.value, direct.uri)
    elif name == "longer":
        with raises_code(StorageError, "VT-STORE-006"):
            latest_commit(hasty, STAGE, passed_over=noted)
    else:
        assert latest_commit(hasty, STAGE, passed_over=noted) is None
        assert [(other.key, direct.uri in other.why) for other in noted] == [
            (f"{STAGE}/committed/step-00000010.json", True)
        ]
    proxy.heal()
    proxy.spoil("lie", match, times=1, lie=OBJECTS[name])
    assert whole_step(hasty, tmp_path / "back") == (10, "")


@pytest.mark.parametrize("name", OBJECTS)
def test_what_is_no_manifest_neither_ends_a_step_nor_undoes_it(
    hasty: S3Store, direct: S3Store, proxy: FaultProxy, name: str
) -> None:
    manifest = Manifest(kind="model", run="first", stage="1.2", digest="d")
    write_final(direct, STAGE, manifest)
    proxy.spoil("lie", f"GET .*/{final_key(STAGE)}", lie=OBJECTS[name])
    with pytest.raises((StorageError, CheckpointError)) as caught:
        read_final(hasty, STAGE)
    assert_told(caught.value, direct.uri)
    proxy.heal()
    proxy.spoil("lie", f"GET .*/{final_key(STAGE)}", times=1, lie=OBJECTS[name])
    assert read_final(hasty, STAGE) == manifest
