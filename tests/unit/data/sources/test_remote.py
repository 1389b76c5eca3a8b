"""Records and media in an object store are prepared as the same files of a folder are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.helpers.data_world import recipe, small_world
from tests.helpers.s3_server import S3Server
from vita_train.data.prepare.run import prepare
from vita_train.data.sources.fetch import fetch_all
from vita_train.data.sources.own import own_versions
from vita_train.errors import DataError
from vita_train.recipe.sources import RecordsSource

pytestmark = pytest.mark.usefixtures("s3_credentials")
BUCKET = "mydata"


class Bucket:
    """A world of records and media in a bucket."""

    def __init__(self, server: S3Server, folder: Path, prefix: str) -> None:
        self._client = boto3.client("s3", endpoint_url=server.endpoint, region_name="us-east-1")
        if BUCKET not in [one["Name"] for one in self._client.list_buckets()["Buckets"]]:
            self._client.create_bucket(Bucket=BUCKET)
        self._prefix = prefix
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(path.relative_to(folder).as_posix(), path.read_bytes())
        self.source = RecordsSource(
            registry=f"s3://{BUCKET}/{prefix}/registry.json", endpoint=server.endpoint
        )

    def put(self, name: str, content: bytes) -> None:
        self._client.put_object(Bucket=BUCKET, Key=f"{self._prefix}/{name}", Body=content)

    def get(self, name: str) -> bytes:
        answer = self._client.get_object(Bucket=BUCKET, Key=f"{self._prefix}/{name}")
        return bytes(answer["Body"].read())

    def delete(self, *names: str) -> None:
        for name in names:
            self._client.delete_object(Bucket=BUCKET, Key=f"{self._prefix}/{name}")


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Registry, records and media in a folder."""
    return small_world(tmp_path / "world").parent


@pytest.fixture
def bucket(world: Path, tmp_path: Path, s3_server: S3Server, s3_credentials: None) -> Bucket:
    """The same in a bucket."""
    return Bucket(s3_server, world, tmp_path.name)


def prepared(source: RecordsSource, folder: Path) -> Any:
    fetch_all({"own": source}, folder / "raw", seed=0, workers=1)
    lenient = recipe(data={"image": {"max_tiles": 4}, "max_reject_share": 0.9})
    return prepare(lenient, folder / "raw" / "registry.json", folder / "corpus", workers=1)


def test_records_in_a_store_are_prepared_as_those_of_a_folder(
    bucket: Bucket, world: Path, tmp_path: Path
) -> None:
    here = prepared(RecordsSource(registry=str(world / "registry.json")), tmp_path / "here")
    there = prepared(bucket.source, tmp_path / "there")
    assert there.used == here.used > 0
    assert {split.dataset: split.digest for split in there.splits} == {
        split.dataset: split.digest for split in here.splits
    }


def test_a_registry_here_may_name_what_lies_there(
    bucket: Bucket, world: Path, tmp_path: Path
) -> None:
    registry = json.loads((world / "registry.json").read_text())
    root = bucket.source.registry.rpartition("/")[0]
    for dataset in registry["datasets"].values():
        for split in (value for value in dataset.values() if isinstance(value, dict)):
            split["roots"] = {key: f"{root}/{value}" for key, value in split["roots"].items()}
    (world / "registry.json").write_text(json.dumps(registry))
    mixed = bucket.source.model_copy(update={"registry": str(world / "registry.json")})
    assert prepared(mixed, tmp_path / "mixed").used > 0


def test_media_that_are_missing_are_rejected_by_name(
    bucket: Bucket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = prepared(bucket.source, tmp_path / "whole")
    bucket.delete("pics/p1.jpg", "pics/p2.jpg")
    holed = prepared(bucket.source, tmp_path / "holed")
    assert (holed.records, whole.rejected) == (whole.records, 0)
    assert holed.rejected == 4, "two in train, two in dev"
    assert "pics: 2 of " in capsys.readouterr().err


def test_names_lead_nowhere_else(bucket: Bucket, tmp_path: Path) -> None:
    records = json.loads(bucket.get("look-train.json"))
    records[0]["image"] = "../../../outside.jpg"
    records[1]["image"] = "a//b.jpg"
    bucket.put("look-train.json", json.dumps(records).encode())
    ledger = prepared(bucket.source, tmp_path / "out")
    assert ledger.rejected == 2
    assert not list(tmp_path.rglob("outside.jpg"))


@pytest.mark.parametrize(
    ("gone", "code"),
    [
        ("registry.json", "VT-DATA-040"),
        ("look-train.json", "VT-DATA-042"),
        ("pics", "VT-DATA-043"),
    ],
)
def test_what_is_not_there_is_one_error(
    bucket: Bucket, world: Path, tmp_path: Path, gone: str, code: str
) -> None:
    names = [path.relative_to(world).as_posix() for path in world.rglob("*") if path.is_file()]
    bucket.delete(*[name for name in names if name == gone or name.startswith(f"{gone}/")])
    with pytest.raises(DataError) as caught:
        prepared(bucket.source, tmp_path / "out")
    assert caught.value.code == code
    assert caught.value.where.startswith(f"s3://{BUCKET}/")


def test_another_record_file_is_noticed_without_reading_it(bucket: Bucket) -> None:
    before = own_versions(bucket.source)
    assert own_versions(bucket.source) == before
    bucket.put("talk-train.json", bucket.get("talk-train.json") + b"\n")
    after = own_versions(bucket.source)
    assert [name for name in before if before[name] != after[name]] == [
        bucket.source.registry.replace("registry.json", "talk-train.json")
    ]
