"""A Debian package as a folder of files: fetched with apt-get, or a .deb at hand; nothing in it is
executed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from vita_train.console import say
from vita_train.ended import last_words
from vita_train.errors import UserError
from vita_train.recipe.sources import StampsSource

_TIMEOUT = 1800
"""Seconds a download may take."""


def check_stamps(source: StampsSource) -> str:
    """Say where the package of stamps comes from.

    Raises:
        UserError: its file is missing, or what downloads and unpacks it.
    """
    if source.package:
        if not Path(source.package).is_file():
            raise UserError(
                "there is no such file",
                code="VT-USE-080",
                where=source.package,
                remedy="give the path of the .deb",
            )
        return f"package {source.package}"
    missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        raise UserError(
            f"this machine has no {' and no '.join(missing)}",
            code="VT-USE-081",
            remedy="download tuxpaint-stamps-default elsewhere and give the source's package",
        )
    return "package tuxpaint-stamps-default through apt-get"


def unpack_package(name: str, given: Path | None, into: Path) -> Path:
    """Return a folder with the files of a Debian package.

    Args:
        name: the package, for ``apt-get download``.
        given: a .deb file or a folder already unpacked; none downloads the package.
        into: an empty folder to download and unpack to.

    Raises:
        UserError: there is no apt-get or dpkg-deb, the download failed, or the file is not a
            package.
    """
    if given is not None and given.is_dir():
        return given
    if given is not None and not given.is_file():
        raise UserError(
            "package file does not exist",
            code="VT-USE-032",
            where=str(given),
            remedy="correct the source's package",
        )
    archive = given or _download(name, into)
    _run(
        ["dpkg-deb", "-x", str(archive.resolve()), str(into / "files")],
        into,
        f"{archive.name} cannot be unpacked",
        "unpack it elsewhere and name the folder in the source's package",
    )
    return into / "files"


def _download(name: str, into: Path) -> Path:
    say(f"fetching the Debian package {name}")
    _run(
        ["apt-get", "download", name],
        into,
        f"the Debian package {name} cannot be fetched",
        "run apt-get update, or fetch the .deb elsewhere and name it in the source's package",
    )
    return next(iter(sorted(into.glob(f"{name}_*.deb"))))


def _run(command: list[str], folder: Path, what: str, remedy: str) -> None:
    if shutil.which(command[0]) is None:
        raise UserError(
            f"{what}: this machine has no {command[0]}", code="VT-USE-033", remedy=remedy
        )
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"{what}: no end after {_TIMEOUT} seconds", code="VT-USE-034", remedy=remedy
        ) from error
    if done.returncode:
        reason = last_words(done.returncode, done.stderr)
        raise UserError(f"{what}: {reason}", code="VT-USE-035", remedy=remedy)
