"""A Debian package in the target tree: unpacked in a folder of its own, then moved to its place."""

from __future__ import annotations

import shutil
from pathlib import Path

from vita_train.data.catalogue.entry import DebianPackage
from vita_train.data.fetch.unpack import merge
from vita_train.data.sources.debian import unpack_package


def fetch_package(place: DebianPackage, root: Path, staging: Path) -> None:
    """Fetch and unpack a package to its place.

    Raises:
        UserError: there is no apt-get or dpkg-deb, or they fail.
    """
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    files = unpack_package(place.package, None, staging)
    merge(files, root / place.to)
    shutil.rmtree(staging, ignore_errors=True)
