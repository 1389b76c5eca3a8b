"""A step is done when its manifest is there and whole."""

from __future__ import annotations

import pytest

from vita_train.errors import CheckpointError
from vita_train.runs.final import read_final, write_final
from vita_train.runs.manifest import Manifest
from vita_train.storage.base import FileRef, Store

MANIFEST = Manifest(
    kind="prepared",
    run="r",
    stage="prepare",
    digest="d",
    files={"ledger": FileRef(uri="s3://b/k", sha256="0" * 64, bytes=3)},
    lineage={"rows": 7},
)


def test_roundtrip(store: Store) -> None:
    assert read_final(store, "run/prepare") is None
    write_final(store, "run/prepare", MANIFEST)
    assert read_final(store, "run/prepare") == MANIFEST
    assert store.list() == ["run/prepare/final.json"]


@pytest.mark.parametrize(
    "text", [b"", b"{", b'{"kind": "model"}', b'{"kind": "nonsense", "run": 1}', b"\xff\xfe"]
)
def test_damaged_manifest_is_named(store: Store, text: bytes) -> None:
    store.write("run/prepare/final.json", text)
    with pytest.raises(CheckpointError) as caught:
        read_final(store, "run/prepare")
    assert store.uri_of("run/prepare/final.json") in str(caught.value)


def test_truncated_manifest_is_named(store: Store) -> None:
    write_final(store, "p", MANIFEST)
    store.write("p/final.json", store.read("p/final.json")[:-40])
    with pytest.raises(CheckpointError):
        read_final(store, "p")
