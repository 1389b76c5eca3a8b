"""Hub and ModelScope: revisions held, access tried before bytes move, tokens never shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.fake_hub import FakeHub, serve_modelscope
from tests.helpers.hostile_http import Fault, HostileServer
from tests.unit.data.fetch import codes
from tests.unit.data.fetch.conftest import QUICK, Fetch
from vita_train.data.catalogue.load import Catalogue
from vita_train.data.fetch.listing import Listed, list_files
from vita_train.data.fetch.source import parse_sources
from vita_train.errors import StorageError, UserError

TOKEN = "hf_" + "SecretOfMine" * 3
FILES = {"data/a.bin": b"a" * 5000, "data/b.bin": b"b" * 300, "README.md": b"hello"}


@pytest.fixture
def hub(server: HostileServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHub:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    world = FakeHub(server, token=TOKEN)
    world.add("datasets/me/set", FILES)
    return world


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_repository_is_fetched_at_a_commit_that_is_kept(
    hub: FakeHub, bring: Fetch, tmp_path: Path
) -> None:
    bring("hf:datasets/me/set")
    assert files_of(tmp_path / "to" / "set") == FILES
    (source,) = json.loads((tmp_path / "to" / "fetch.lock.json").read_text())["sources"].values()
    assert list(source["pinned"].values()) == ["a" * 40]
    assert source["files"]["set/data/a.bin"]["verified"] == "published"
    assert source["files"]["set/README.md"]["verified"] == "recorded"


def test_a2_a_dry_run_lists_a_pattern_and_brings_nothing(
    hub: FakeHub, bring: Fetch, tmp_path: Path
) -> None:
    """A dataset of a split by a pattern: its records and the parts of its archive."""
    parts = {f"projection/dense/dense.tar.gz.part_{number:03d}": b"x" * 10 for number in range(5)}
    others = {"projection/other/other.jsonl": b"{}\n", "vision/dense/dense.jsonl": b"{}\n"}
    hub.add("datasets/me/set", {**parts, **others, "projection/dense/dense.jsonl": b"{}\n"})
    nothing = Catalogue({}, {})
    entries = parse_sources(["hf:datasets/me/set:projection/dense/*"], nothing, False)

    def listed() -> list[Listed]:
        return list_files(entries, tmp_path / "to", catalogue=nothing, limits=QUICK)

    found = listed()
    assert {file.path: file.bytes for file in found} == {
        **{f"set/{name}": 10 for name in parts},
        "set/projection/dense/dense.jsonl": 3,
    }
    assert not any(file.there for file in found)
    assert not (tmp_path / "to").exists()
    bring("hf:datasets/me/set:projection/dense/*")
    assert all(file.there for file in listed())


def test_a_newer_commit_is_taken_only_when_asked(
    hub: FakeHub, bring: Fetch, tmp_path: Path
) -> None:
    source = "hf:datasets/me/set:README.md"
    bring(source)
    hub.add("datasets/me/set", {"README.md": b"newer"}, commit="b" * 40)
    with pytest.raises(UserError):  # this server has lost the first commit; the hub has not
        bring(source)
    assert (tmp_path / "to" / "set" / "README.md").read_bytes() == b"hello"
    bring(source, update=True)
    assert (tmp_path / "to" / "set" / "README.md").read_bytes() == b"newer"


def test_transfers_from_the_hub_are_continued(hub: FakeHub, bring: Fetch) -> None:
    path = f"/datasets/me/set/cdn/{'a' * 40}/data/a.bin"
    hub.server.faults[path] = [Fault(cut=2000), Fault(status=503)]
    bring("hf:datasets/me/set:data/a.bin")
    assert hub.server.sent(path) == 5000


def test_the_token_goes_to_the_hub_alone_and_is_never_shown(
    hub: FakeHub,
    bring: Fetch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.gated.add("datasets/me/set")
    bring("hf:datasets/me/set")
    for request in hub.server.requests:
        sent = {name.lower() for name in request.headers}
        assert ("authorization" in sent) == ("/cdn/" not in request.path), request.path
    lock = (tmp_path / "to" / "fetch.lock.json").read_text()
    output = capfd.readouterr()
    assert TOKEN not in lock + output.out + output.err


@pytest.mark.parametrize("token", ["", "hf_wrong" + "x" * 30])
def test_refused_access_says_whether_a_token_was_sent(
    hub: FakeHub, bring: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    hub.gated.add("datasets/me/set")
    with pytest.raises(UserError) as caught:
        bring("hf:datasets/me/set")
    assert caught.value.code == (codes.HUB_REFUSED if token else codes.GATED)
    assert ("no token" in caught.value.what) == (not token)
    assert "HF_TOKEN" in caught.value.remedy
    assert "datasets/me/set" in caught.value.where
    assert "hf_wrong" not in str(caught.value)
    assert not any("/resolve/" in request.path for request in hub.server.requests)


def test_a_wrong_name_is_answered_with_the_nearest(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vita_train.data.catalogue.load import load_catalogue
    from vita_train.data.fetch.run import fetch
    from vita_train.data.fetch.source import parse_sources

    known = load_catalogue()
    sources = parse_sources(["hf:datasets/liuhaotian/LLaVA-Instruct-158K"], known, False)
    with pytest.raises(UserError) as caught:
        fetch(sources, tmp_path / "to", catalogue=known)
    assert caught.value.code == codes.NO_REPO
    assert "liuhaotian/LLaVA-Instruct-150K" in caught.value.remedy


def test_a_file_that_a_repository_lacks_is_answered_with_the_nearest(
    hub: FakeHub, bring: Fetch
) -> None:
    with pytest.raises(UserError) as caught:
        bring("hf:datasets/me/set:data/a.bim")
    assert caught.value.code == codes.NO_FILE
    assert "data/a.bin" in caught.value.remedy


def test_a_revision_that_is_not_there_is_told(hub: FakeHub, bring: Fetch) -> None:
    with pytest.raises(UserError) as caught:
        bring("hf:datasets/me/set@v9")
    assert caught.value.code == codes.NO_REVISION


def test_a_hub_that_does_not_answer_names_the_mirror(
    bring: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        "huggingface_hub.utils._http._DEFAULT_RETRY_ON_EXCEPTIONS", (), raising=False
    )
    with pytest.raises(StorageError) as caught:
        bring("hf:datasets/me/set")
    assert caught.value.code == codes.HUB_AWAY
    assert "HF_ENDPOINT" in caught.value.remedy


def test_modelscope_is_read_without_its_client(
    server: HostileServer, bring: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.url)
    serve_modelscope(server, "me/model", FILES)
    bring("modelscope:me/model")
    assert files_of(tmp_path / "to" / "model") == FILES
    with pytest.raises(UserError):
        bring("modelscope:me/other")
