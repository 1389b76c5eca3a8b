"""The synthetic world as AuroraCap's data are published: records beside an archive in parts. They
are served on this machine, fetched, joined and unpacked as from anywhere else.

Nothing but the local server is asked. What comes of it does not depend on the port that it gets.
"""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

from vita_train.data.catalogue.entry import Download, Entry, Licence
from vita_train.data.catalogue.load import Catalogue
from vita_train.data.fetch.folder import STATE
from vita_train.data.fetch.lock import LOCK
from vita_train.data.fetch.run import fetch
from vita_train.data.sources.registry import Registry
from vita_train.data.sources.synth.build import MEDIA, RECORDS, build_synth
from vita_train.data.sources.synth.serve import served
from vita_train.recipe.sources import SynthArchivesSource
from vita_train.storage.digest import sha256_file


def build_archives(source: SynthArchivesSource, out: Path, *, seed: int, workers: int) -> Registry:
    """Write records and media below ``out``; the caller writes the registry.

    Raises:
        UserError: a file cannot be written, or the synthesiser is missing.
        DataError: the check for leaks found something, or an archive did not arrive whole.
    """
    web = out / "web"
    web.mkdir()
    registry = build_synth(source, web, seed=seed, workers=workers)
    _pack(web, source.parts)
    with served(web) as url:
        places = [
            Download(
                url=f"{url}/{path.relative_to(web).as_posix()}",
                to=path.relative_to(web).as_posix(),
                sha256=sha256_file(path),
                unpack=MEDIA if path.parent == web else None,
            )
            for path in sorted([*web.glob(f"{MEDIA}.tar.gz*"), *(web / RECORDS).iterdir()])
        ]
        entry = Entry(
            name="world",
            title="The synthetic world",
            kind="media",
            licence=Licence(name="none: made here"),
            places=tuple(places),
        )
        fetch([entry], out, catalogue=Catalogue({}, {}), accept_licence=True)
    shutil.rmtree(web)
    shutil.rmtree(out / STATE)
    (out / LOCK).unlink()  # it holds the port of the server
    return registry


def _pack(web: Path, parts: int) -> None:
    """Put the media into an archive, and cut it into so many parts."""
    archive = web / f"{MEDIA}.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:  # pictures are compressed already
        tar.add(web / MEDIA, arcname=".")
    shutil.rmtree(web / MEDIA)
    data = archive.read_bytes()
    archive.unlink()
    length = -(-len(data) // parts)
    for number in range(parts):
        part = archive.with_name(f"{archive.name}.part_{number:03}")
        part.write_bytes(data[number * length : (number + 1) * length])
