"""``vita-train data list | show | add | fetch`` as a user runs them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vita_train.cli.main import build_app
from vita_train.errors import UserError


def run(*words: str) -> str:
    done = CliRunner().invoke(build_app(), list(words))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_the_list_can_be_narrowed() -> None:
    lines = run("data", "list", "--stage", "3.2", "--kind", "corpus").splitlines()
    names = {line.split()[0] for line in lines}
    assert "libritts" in names
    assert "coco-train2017" not in names
    assert {entry["name"] for entry in json.loads(run("data", "list", "--json"))} > names


def test_an_entry_shows_its_tree_and_the_command() -> None:
    told = run("data", "show", "coco-train2017")
    assert "coco/train2017.zip -> coco/" in told
    assert "vita-train data fetch coco-train2017" in told


def test_a_users_entry_is_added_and_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITA_TRAIN_CATALOGUE", str(tmp_path / "own"))
    monkeypatch.setenv("VITA_TRAIN_DATA", str(tmp_path / "data"))
    (tmp_path / "own").mkdir()
    (tmp_path / "a.json").write_text("[]")
    (tmp_path / "mine.yaml").write_text(
        "name: mine\ntitle: Mine\nkind: media\n"
        f"places: [{{kind: file, path: {tmp_path / 'a.json'}}}]\n"
    )
    run("data", "add", str(tmp_path / "mine.yaml"))
    with pytest.raises(UserError):  # nobody is there to be asked for the licence
        run("data", "fetch", "mine")
    assert "1 fetched now" in run("data", "fetch", "mine", "--accept-licence")
    assert (tmp_path / "data" / "a.json").read_text() == "[]"
    assert "0 fetched now" in run("data", "fetch", "mine")


def test_without_a_folder_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VITA_TRAIN_DATA", raising=False)
    with pytest.raises(UserError) as caught:
        run("data", "fetch", "mme")
    assert "--to" in caught.value.remedy


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")
def test_a_debian_package_is_unpacked_to_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script stands for apt-get, which would need a mirror; the package is a real one."""
    (tmp_path / "tree" / "DEBIAN").mkdir(parents=True)
    (tmp_path / "tree" / "usr").mkdir()
    (tmp_path / "tree" / "usr" / "a.png").write_text("image")
    (tmp_path / "tree" / "DEBIAN" / "control").write_text(
        "Package: stamps\nVersion: 1\nArchitecture: all\nMaintainer: me\nDescription: x\n"
    )
    deb = tmp_path / "stamps_1_all.deb"
    subprocess.run(
        ["dpkg-deb", "-b", str(tmp_path / "tree"), str(deb)], check=True, capture_output=True
    )
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "apt-get").write_text(f"#!/bin/sh\ncp {deb} .\n")
    (tmp_path / "bin" / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    run("data", "fetch", "debian:stamps", "--to", str(tmp_path / "to"))
    assert (tmp_path / "to" / "stamps" / "usr" / "a.png").read_text() == "image"
