"""What no second try can mend is told at once: wrong credentials, a bucket that is gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.checkpoints import STAGE, assert_told, files_below, save, whole_step
from tests.helpers.s3_faults import FaultProxy
from tests.helpers.s3_server import S3Server
from vita_train.errors import UserError
from vita_train.runs.final import read_final
from vita_train.storage.base import FileRef
from vita_train.storage.cache import fetch_file
from vita_train.storage.checkpoints.attempt import Attempt, begin_attempt
from vita_train.storage.checkpoints.commit import latest_commit, restore
from vita_train.storage.host_cache import cache_dir
from vita_train.storage.s3 import S3Store

Work = Callable[[S3Store, Attempt, Path], Any]

WORKS: dict[str, Work] = {
    "begin": lambda store, attempt, folder: begin_attempt(store, STAGE),
    "save": lambda store, attempt, folder: save(store, attempt, 20, folder / "work"),
    "find": lambda store, attempt, folder: latest_commit(store, STAGE),
    "final": lambda store, attempt, folder: read_final(store, STAGE),
    "fetch": lambda store, attempt, folder: fetch_file(
        FileRef(uri=store.uri_of("a/b.bin"), sha256="0" * 64, bytes=1), endpoint=store._server
    ),
}


@pytest.fixture
def attempt(direct: S3Store, tmp_path: Path) -> Attempt:
    """An attempt that has committed step 10."""
    attempt = begin_attempt(direct, STAGE)
    save(direct, attempt, 10, tmp_path / "work")
    return attempt


def told_at_once(
    work: Work, store: S3Store, attempt: Attempt, folder: Path, proxy: FaultProxy
) -> UserError:
    """Run `work`, which must be refused without the same request being made over and over."""
    with pytest.raises(UserError) as caught:
        work(store, attempt, folder)
    assert_told(caught.value, f"s3://{store.bucket}")
    assert max(Counter(proxy.requests).values()) <= 2
    assert len(proxy.requests) <= 4
    assert files_below(cache_dir()) == []
    return caught.value


@pytest.mark.parametrize("work", WORKS.values(), ids=WORKS)
def test_wrong_credentials(
    attempt: Attempt,
    direct: S3Store,
    proxy: FaultProxy,
    s3_server: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    work: Work,
) -> None:
    if s3_server.kind == "moto":
        pytest.skip("moto does not check signatures")
    with monkeypatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
        store = S3Store(direct.bucket, "runs", endpoint=proxy.endpoint)
        error = told_at_once(work, store, attempt, tmp_path, proxy)
    assert "AWS_SECRET_ACCESS_KEY" in error.remedy
    assert "not-the-secret" not in str(error)
    assert whole_step(direct, tmp_path / "back") == (10, "")


@pytest.mark.parametrize("work", WORKS.values(), ids=WORKS)
def test_a_bucket_that_vanished(
    attempt: Attempt, store: S3Store, proxy: FaultProxy, admin: Any, tmp_path: Path, work: Work
) -> None:
    _remove(admin, store.bucket)
    error = told_at_once(work, store, attempt, tmp_path, proxy)
    assert f"bucket {store.bucket!r} does not exist" in error.what
    assert "create it" in error.remedy


def test_a_bucket_that_vanishes_while_a_checkpoint_is_restored(
    attempt: Attempt, store: S3Store, admin: Any, tmp_path: Path
) -> None:
    commit = latest_commit(store, STAGE)
    assert commit is not None
    _remove(admin, store.bucket)
    with pytest.raises(UserError) as caught:
        restore(store, commit, tmp_path / "back")
    assert_told(caught.value, commit.prefix)
    assert files_below(tmp_path / "back") == []


def _remove(admin: Any, bucket: str) -> None:
    for page in admin.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for item in page.get("Contents", []):
            admin.delete_object(Bucket=bucket, Key=item["Key"])
    admin.delete_bucket(Bucket=bucket)
