"""Every file arrives whole, whatever the server does; or an error says why not."""

from __future__ import annotations

import json
import random
from hashlib import sha256
from pathlib import Path

import pytest

from tests.helpers.hostile_http import Fault, HostileServer
from tests.unit.data.fetch import codes
from tests.unit.data.fetch.conftest import QUICK, Fetch
from vita_train.data.catalogue.entry import Download, Entry
from vita_train.data.catalogue.load import Catalogue
from vita_train.data.fetch.folder import part_path
from vita_train.data.fetch.run import fetch
from vita_train.errors import DataError, StorageError, UserError

DATA = random.Random(1).randbytes(1_500_000)


def lock(folder: Path) -> dict[str, dict[str, str | int]]:
    found = json.loads((folder / "fetch.lock.json").read_text())
    return {
        path: file for source in found["sources"].values() for path, file in source["files"].items()
    }


HALF = len(DATA) // 2
FAULTS = {
    "breaks off": [Fault(cut=400_000), Fault(cut=0), Fault(cut=300_000)],
    "is busy": [Fault(status=429, headers={"Retry-After": "0"}), Fault(status=503)],
    "fails": [Fault(status=500), Fault(cut=10), Fault(status=502)],
    "says too much": [Fault(lie=5000)],
    "says too much later": [Fault(cut=HALF), Fault(lie=77)],
    "answers slowly": [Fault(delay=0.01)],
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_file_arrives_whole_from_a_server_that(
    name: str, server: HostileServer, bring: Fetch, tmp_path: Path
) -> None:
    server.files["/a.bin"] = DATA
    server.faults["/a.bin"] = list(FAULTS[name])
    bring(f"{server.url}/a.bin")
    assert (tmp_path / "to" / "a.bin").read_bytes() == DATA
    assert lock(tmp_path / "to")["a.bin"]["sha256"] == sha256(DATA).hexdigest()
    assert not server.faults["/a.bin"]
    assert not list((tmp_path / "to" / ".vita-fetch").glob("*.part"))


def test_what_came_before_a_break_is_not_fetched_again(
    server: HostileServer, bring: Fetch, tmp_path: Path
) -> None:
    server.files["/a.bin"] = DATA
    server.faults["/a.bin"] = [Fault(cut=700_000), Fault(cut=100_000)]
    bring(f"{server.url}/a.bin")
    assert server.sent("/a.bin") == len(DATA)


def test_without_ranges_a_file_begins_anew_and_it_is_said(
    server: HostileServer, bring: Fetch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.ranges = False
    server.files["/a.bin"] = DATA
    server.faults["/a.bin"] = [Fault(cut=700_000)]
    bring(f"{server.url}/a.bin")
    assert (tmp_path / "to" / "a.bin").read_bytes() == DATA
    assert server.sent("/a.bin") == len(DATA) + 700_000
    assert "no ranges" in capsys.readouterr().err


def test_a_version_that_changed_between_two_parts_is_not_mixed(
    server: HostileServer, bring: Fetch, tmp_path: Path
) -> None:
    other = random.Random(2).randbytes(len(DATA))
    server.files["/a.bin"] = DATA
    server.faults["/a.bin"] = [Fault(cut=700_000), *[Fault(status=500)] * 5]
    with pytest.raises(StorageError):
        bring(f"{server.url}/a.bin")
    assert part_path(tmp_path / "to", "a.bin").stat().st_size == 700_000
    server.files["/a.bin"] = other
    bring(f"{server.url}/a.bin")
    assert (tmp_path / "to" / "a.bin").read_bytes() == other


def test_without_a_version_nothing_is_continued(
    server: HostileServer, bring: Fetch, tmp_path: Path
) -> None:
    server.validators = False
    server.files["/a.bin"] = DATA
    server.faults["/a.bin"] = [Fault(cut=700_000)]
    bring(f"{server.url}/a.bin")
    assert (tmp_path / "to" / "a.bin").read_bytes() == DATA
    assert server.sent("/a.bin") == len(DATA) + 700_000


def entry(server: HostileServer, **place: object) -> Entry:
    return Entry(
        name="mine",
        title="Mine",
        kind="media",
        places=(Download.model_validate({"url": f"{server.url}/a.bin", **place}),),
    )


def bring_entry(one: Entry, folder: Path, **settings: object) -> None:
    catalogue = Catalogue({one.name: one}, {})
    fetch([one], folder, catalogue=catalogue, accept_licence=True, limits=QUICK, **settings)


def test_a_stated_checksum_is_verified_and_wrong_bytes_are_fetched_again(
    server: HostileServer, tmp_path: Path
) -> None:
    server.files["/a.bin"] = DATA
    server.faults["/a.bin"] = [Fault(flip=True)]
    one = entry(server, sha256=sha256(DATA).hexdigest())
    bring_entry(one, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert lock(tmp_path)["a.bin"]["verified"] == "published"


def test_what_is_never_as_stated_leaves_nothing(server: HostileServer, tmp_path: Path) -> None:
    server.files["/a.bin"] = DATA
    with pytest.raises(DataError) as caught:
        bring_entry(entry(server, sha256="0" * 64), tmp_path)
    assert caught.value.code == codes.WRONG_BYTES
    assert not (tmp_path / "a.bin").exists()
    assert not list((tmp_path / ".vita-fetch").glob("*.part"))


def test_lengths_that_are_always_too_long_cost_nothing(
    server: HostileServer, bring: Fetch, tmp_path: Path
) -> None:
    server.files["/a.bin"] = DATA
    server.chaos = lambda number, path: Fault(lie=9)
    bring(f"{server.url}/a.bin")
    assert (tmp_path / "to" / "a.bin").read_bytes() == DATA
    assert server.sent("/a.bin") == len(DATA)


def test_lengths_that_are_always_too_short_end_in_an_error(
    server: HostileServer, tmp_path: Path
) -> None:
    server.files["/a.bin"] = DATA
    server.chaos = lambda number, path: Fault(lie=-9)
    with pytest.raises(StorageError) as caught:
        bring_entry(entry(server, bytes=len(DATA)), tmp_path)
    assert caught.value.code == codes.INTERRUPTED
    assert not (tmp_path / "a.bin").exists()


def test_a_second_fetch_asks_for_nothing_again(
    server: HostileServer, bring: Fetch, tmp_path: Path
) -> None:
    server.files |= {"/a.bin": DATA, "/b.bin": b"b" * 10}
    sources = [f"{server.url}/a.bin", f"{server.url}/b.bin"]
    assert bring(*sources).transferred == 2
    before = (tmp_path / "to" / "fetch.lock.json").read_bytes()
    asked = len(server.requests)
    assert bring(*sources).transferred == 0
    assert len(server.requests) == asked
    assert (tmp_path / "to" / "fetch.lock.json").read_bytes() == before


def test_a_file_that_its_publisher_changed_is_told_from_the_first(
    server: HostileServer, bring: Fetch, tmp_path: Path
) -> None:
    server.files["/a.bin"] = DATA
    bring(f"{server.url}/a.bin")
    (tmp_path / "to" / "a.bin").unlink()
    server.files["/a.bin"] = DATA[::-1]
    with pytest.raises(DataError) as caught:
        bring(f"{server.url}/a.bin")
    assert caught.value.code == codes.CHANGED
    bring(f"{server.url}/a.bin", update=True)
    assert (tmp_path / "to" / "a.bin").read_bytes() == DATA[::-1]


def test_a_file_of_someone_else_is_never_replaced(
    server: HostileServer, bring: Fetch, tmp_path: Path
) -> None:
    server.files["/a.bin"] = DATA
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "a.bin").write_bytes(b"mine")
    with pytest.raises(UserError) as caught:
        bring(f"{server.url}/a.bin")
    assert caught.value.code == codes.FOREIGN_FILE
    assert (tmp_path / "to" / "a.bin").read_bytes() == b"mine"


def test_many_files_from_a_server_of_chance_all_arrive(
    server: HostileServer, bring: Fetch, tmp_path: Path
) -> None:
    chance = random.Random(3)
    server.files = {f"/{number}.bin": chance.randbytes(300_000) for number in range(20)}

    def chaos(number: int, path: str) -> Fault | None:
        kinds = [Fault(status=429), Fault(status=500), Fault(cut=123_456), Fault(lie=3), None, None]
        return kinds[(number + int(path.strip("/.bin"))) % len(kinds)]

    server.chaos = chaos
    bring(*[f"{server.url}{path}" for path in server.files])
    for path, data in server.files.items():
        assert (tmp_path / "to" / path.strip("/")).read_bytes() == data
