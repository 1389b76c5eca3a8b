"""What the public guides list under troubleshooting, each with a code, and nothing half done."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.hostile_http import Fault, HostileServer
from tests.helpers.s3_server import S3Server
from tests.unit.data.fetch import codes
from tests.unit.data.fetch.conftest import QUICK, Fetch
from vita_train.data.catalogue.entry import Download, Entry, Form, Licence
from vita_train.data.catalogue.load import Catalogue
from vita_train.data.fetch import folder as folder_module
from vita_train.data.fetch.http import HttpOrigin
from vita_train.data.fetch.run import fetch
from vita_train.data.fetch.source import parse_sources
from vita_train.errors import DataError, StorageError, UserError

NOTHING = Catalogue({}, {})
POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123456\n"
)


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, codes.HTTP_REFUSED), (403, codes.HTTP_REFUSED), (404, codes.HTTP_MISSING)],
)
def test_a_refusal_ends_at_once_with_its_code(
    server: HostileServer, bring: Fetch, tmp_path: Path, status: int, code: str
) -> None:
    server.pages["."] = lambda request: (status, {}, b"")
    with pytest.raises(UserError) as caught:
        bring(f"{server.url}/a.bin")
    assert caught.value.code == code
    assert len(server.requests) == 1
    assert not (tmp_path / "to" / "a.bin").exists()


def test_an_interrupted_transfer_keeps_what_came_and_says_so(
    server: HostileServer, bring: Fetch, tmp_path: Path
) -> None:
    server.files["/a.bin"] = b"a" * 500_000
    server.faults["/a.bin"] = [Fault(cut=200_000), *[Fault(cut=0)] * 9]
    with pytest.raises(StorageError) as caught:
        bring(f"{server.url}/a.bin")
    assert caught.value.code == codes.INTERRUPTED
    assert "200000" in caught.value.what
    server.faults.clear()
    bring(f"{server.url}/a.bin")
    assert server.sent("/a.bin") == 500_000


def test_a_disk_without_room_is_told_before_a_byte_moves(
    server: HostileServer, bring: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/a.bin"] = b"a" * 500_000
    monkeypatch.setattr(folder_module, "_MARGIN", 1 << 60)
    with pytest.raises(UserError) as caught:
        bring(f"{server.url}/a.bin")
    assert caught.value.code == codes.NO_ROOM
    assert server.sent("/a.bin") == 0


def test_a_disk_that_fills_keeps_what_came(
    server: HostileServer, bring: Fetch, tmp_path: Path
) -> None:
    """A limit on the size of files stands for a full disk: the write fails midway."""
    server.files["/a.bin"] = bytes(3 << 20)
    script = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "from vita_train.cli.main import main\n"
        "sys.argv = ['vita-train', *sys.argv[1:]]\n"
        "main()\n"
    )
    command = [sys.executable, "-c", script, "data", "fetch", f"{server.url}/a.bin"]
    done = subprocess.run(
        [*command, "--to", str(tmp_path / "to")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert f"[{codes.UNWRITABLE}]" in done.stderr
    assert not (tmp_path / "to" / "a.bin").exists()
    bring(f"{server.url}/a.bin")
    assert (tmp_path / "to" / "a.bin").read_bytes() == bytes(3 << 20)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_someone_else_is_told_at_the_start(
    server: HostileServer, bring: Fetch, tmp_path: Path
) -> None:
    (tmp_path / "to").mkdir(mode=0o500)
    with pytest.raises(UserError) as caught:
        bring(f"{server.url}/a.bin")
    assert caught.value.code == codes.PERMISSION
    assert not server.requests


def test_permission_denied_has_its_code(tmp_path: Path) -> None:
    error = folder_module.refused(PermissionError(13, "Permission denied", "/x"), tmp_path)
    assert error.code == codes.PERMISSION
    assert folder_module.refused(OSError(28, "No space", "/x"), tmp_path).code == codes.DISK_FULL


def test_a_folder_that_is_a_file_is_told(bring: Fetch, tmp_path: Path) -> None:
    (tmp_path / "to").write_text("")
    with pytest.raises(UserError):
        bring("file:/etc/hostname")


def test_redirects_away_from_https_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        HttpOrigin("https://a.example/x")._follow("https://a.example/x", "http://b.example/x", {})
    assert caught.value.code == codes.DOWNGRADE


def test_redirects_without_end_are_refused(server: HostileServer, bring: Fetch) -> None:
    server.pages["."] = lambda request: (302, {"Location": "/again"}, b"")
    with pytest.raises(UserError):
        bring(f"{server.url}/a.bin")


@pytest.mark.parametrize(
    "source",
    ["git@github.com:me/set.git", "ssh://git@host/x", "git+ssh://host/x", "me@host:folder"],
)
def test_ssh_remotes_are_refused_with_the_token_way(source: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_sources([source], NOTHING, True)
    assert caught.value.code == codes.SSH
    assert "HF_TOKEN" in caught.value.remedy


@pytest.mark.parametrize(
    "source",
    [
        "https://me:secret@host/x",
        "https://host/x?token=secret",
        "ftp://host/x",
        "hf:datasets/../x",
        "hf:",
        "s3:bucket/x",
        "debian:../x",
    ],
)
def test_other_addresses_are_refused_without_their_secrets(source: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_sources([source], NOTHING, True)
    assert "secret" not in str(caught.value)


def test_pointers_of_git_lfs_are_one_message_and_never_data(
    server: HostileServer, bring: Fetch, tmp_path: Path
) -> None:
    (tmp_path / "checkout" / ".git").mkdir(parents=True)
    for name in ("a.bin", "b.bin"):
        (tmp_path / "checkout" / name).write_bytes(POINTER)
    with pytest.raises(DataError) as caught:
        bring(f"file:{tmp_path}/checkout")
    assert caught.value.code == codes.LFS_POINTERS
    assert "2 of the files" in caught.value.what
    server.files["/a.bin"] = POINTER
    with pytest.raises(DataError) as caught:
        bring(f"{server.url}/a.bin")
    assert caught.value.code == codes.LFS_POINTER
    assert not (tmp_path / "to" / "a.bin").exists()


def test_a_checkout_is_a_source_without_what_git_keeps(bring: Fetch, tmp_path: Path) -> None:
    (tmp_path / "checkout" / ".git").mkdir(parents=True)
    (tmp_path / "checkout" / ".git" / "x").write_text("x")
    (tmp_path / "checkout" / "a.json").write_text("[]")
    (tmp_path / "checkout" / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "checkout" / "pipe")
    assert bring(f"file:{tmp_path}/checkout").files == 1
    assert (tmp_path / "to" / "checkout" / "a.json").read_text() == "[]"


def entry(url: str, **settings: object) -> Entry:
    place = Download.model_validate({"url": url, "unpack": ""} if "tar" in url else {"url": url})
    return Entry.model_validate(
        {"name": "mine", "title": "Mine", "kind": "media", "places": [place], **settings}
    )


def test_a_licence_is_shown_and_accepted_once(
    server: HostileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["/a.bin"] = b"a"
    one = entry(f"{server.url}/a.bin", licence=Licence(name="CC-BY-NC-4.0", note="no commerce"))
    known = Catalogue({"mine": one}, {})
    with pytest.raises(UserError) as caught:
        fetch([one], tmp_path, catalogue=known, limits=QUICK)
    assert caught.value.code == codes.LICENCE
    assert "no commerce" in capsys.readouterr().err
    assert not server.requests
    fetch([one], tmp_path, catalogue=known, accept_licence=True, limits=QUICK)
    assert '"accepted": "20' in (tmp_path / "fetch.lock.json").read_text()
    fetch([one], tmp_path, catalogue=known, limits=QUICK)
    other = one.model_copy(update={"licence": Licence(name="other")})
    with pytest.raises(UserError):
        fetch([other], tmp_path, catalogue=known, limits=QUICK)


def test_files_of_a_form_are_asked_for_and_then_found(tmp_path: Path) -> None:
    place = Form(url="https://a.example/form", about="sign it", to="signed", expect=("a.zip",))
    one = Entry(name="mine", title="Mine", kind="media", places=(place,))
    known = Catalogue({"mine": one}, {})
    with pytest.raises(UserError) as caught:
        fetch([one], tmp_path, catalogue=known, accept_licence=True)
    assert caught.value.code == codes.FORM
    (tmp_path / "signed").mkdir()
    (tmp_path / "signed" / "a.zip").write_bytes(b"")
    fetch([one], tmp_path, catalogue=known)


def test_archives_are_unpacked_once_and_removed(server: HostileServer, tmp_path: Path) -> None:
    from tests.unit.data.fetch.test_unpack import make_tar

    server.files["/a.tar"] = make_tar({"x/1": b"one"})
    one = entry(f"{server.url}/a.tar")
    known = Catalogue({"mine": one}, {})
    assert fetch([one], tmp_path, catalogue=known, accept_licence=True).unpacked == 1
    assert (tmp_path / "x" / "1").read_bytes() == b"one"
    assert not (tmp_path / "a.tar").exists()
    again = fetch([one], tmp_path, catalogue=known)
    assert (again.transferred, again.unpacked) == (0, 0)


def test_what_two_entries_have_in_common_is_fetched_and_unpacked_once(
    server: HostileServer, tmp_path: Path
) -> None:
    from tests.unit.data.fetch.test_unpack import make_tar

    server.files["/a.tar"] = make_tar({"x/1": b"one"})
    one = entry(f"{server.url}/a.tar")
    other = one.model_copy(update={"name": "other"})
    third = one.model_copy(update={"name": "third"})
    known = Catalogue({"mine": one, "other": other, "third": third}, {})
    done = fetch([one, other], tmp_path, catalogue=known, accept_licence=True)
    assert (done.transferred, done.unpacked) == (1, 1)
    done = fetch([third, one], tmp_path, catalogue=known, accept_licence=True)
    assert (done.transferred, done.unpacked) == (0, 0)
    assert server.sent("/a.tar") == len(server.files["/a.tar"])


def test_two_files_for_one_place_are_refused(server: HostileServer, tmp_path: Path) -> None:
    server.files |= {"/a.bin": b"a", "/sub/a.bin": b"b"}
    one = entry(f"{server.url}/a.bin")
    other = entry(f"{server.url}/sub/a.bin").model_copy(update={"name": "other"})
    known = Catalogue({"mine": one, "other": other}, {})
    with pytest.raises(UserError):
        fetch([one, other], tmp_path, catalogue=known, accept_licence=True)
    assert not server.requests


def test_a_damaged_archive_is_kept_and_leaves_nothing(
    server: HostileServer, tmp_path: Path
) -> None:
    server.files["/a.tar.gz"] = b"<html>"
    one = entry(f"{server.url}/a.tar.gz")
    with pytest.raises(DataError):
        fetch([one], tmp_path, catalogue=Catalogue({"mine": one}, {}), accept_licence=True)
    assert (tmp_path / "a.tar.gz").exists()
    assert not list((tmp_path / ".vita-fetch").glob("*.unpack"))


@pytest.mark.usefixtures("s3_credentials")
def test_objects_on_s3_are_fetched_with_the_stores_credentials(
    s3_server: S3Server, bring: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    client = boto3.client("s3", endpoint_url=s3_server.endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="corpus")
    client.put_object(Bucket="corpus", Key="set/a.bin", Body=b"a" * 700_000)
    client.put_object(Bucket="corpus", Key="set/sub/b.bin", Body=b"b")
    assert bring("s3://corpus/set/").files == 2
    assert (tmp_path / "to" / "a.bin").read_bytes() == b"a" * 700_000
    assert (tmp_path / "to" / "sub" / "b.bin").read_bytes() == b"b"
    with pytest.raises((UserError, StorageError)):
        bring("s3://corpus/other.bin")
