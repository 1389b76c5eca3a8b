"""Folders of images and recordings made uniform, in parallel; originals stay as they are.

``convert.jsonl`` in the output folder has a line for each file that was found: what became of it,
or why it cannot be used. By it the next run leaves alone what is up to date.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from vita_train.console import say
from vita_train.data.check.examine import plain_settings
from vita_train.data.media import MediaError
from vita_train.data.media.apart import Decoder
from vita_train.data.media.door import find_file
from vita_train.data.media.encode import Output, output_name
from vita_train.data.media.endings import ENDINGS
from vita_train.data.media.measure import MediaFile
from vita_train.errors import UserError
from vita_train.recipe.data import AudioSpec
from vita_train.storage.digest import digest_of

LEDGER = "convert.jsonl"
MediaKind = Literal["image", "audio"]
_PROGRESS = 1000


@dataclass(frozen=True)
class Converted:
    """What became of a file: a line of the ledger."""

    source: str
    """Below the folder that is read."""
    size: int = 0
    sha256: str = ""
    settings: str = ""
    """Digest of how it was to be written."""
    target: str = ""
    """Below the folder that is written; empty of a file that cannot be used."""
    target_size: int = 0
    reason: str = ""
    detail: str = ""


@dataclass
class ConvertReport:
    """``files`` is the sum of ``written``, ``current`` and ``reasons``."""

    files: int = 0
    written: int = 0
    current: int = 0
    """Left alone, since they are up to date."""
    others: int = 0
    """Files that are no media by their ending; they are left out."""
    reasons: Counter[str] = field(default_factory=Counter)
    targets: dict[str, str] = field(default_factory=dict)
    """Source to target."""
    rejects: list[Converted] = field(default_factory=list)


@dataclass(frozen=True)
class ConvertSettings:
    """What is converted, and how."""

    output: Output = field(default_factory=Output)
    kinds: tuple[MediaKind, ...] = ("image", "audio")
    max_seconds: float = 3600.0
    """Recordings that are longer are rejected."""


def convert_folder(
    folder: Path, out: Path, settings: ConvertSettings, *, workers: int = 1
) -> ConvertReport:
    """Write every image and recording below a folder in one form, under its name.

    Files are decoded in processes of their own with limits of time and memory, as in `data check`.
    A target is whole or not there. A file whose size, sha256 and settings stand in the ledger, with
    its target at hand, is left alone.

    Raises:
        UserError: ``folder`` is none, ``out`` lies in it, or cannot be written.
    """
    _check_folders(folder, out)
    out.mkdir(parents=True, exist_ok=True)
    worker = _Worker(folder, out, settings)
    report = ConvertReport()
    ledger, part = out / LEDGER, out / f"{LEDGER}.part"
    known = _read_ledger(ledger)
    if part.exists():  # of a run that was killed; once more, and it would be lost
        known |= _read_ledger(part)
        merged = out / f"{LEDGER}.merged"
        merged.write_text("".join(map(_line, known.values())), encoding="utf-8")
        merged.replace(ledger)
    taken: dict[str, str] = {}
    pool = ThreadPoolExecutor(workers)
    waiting: deque[Future[tuple[Converted, bool]]] = deque()
    try:
        with part.open("w", encoding="utf-8") as stream:

            def finish(future: Future[tuple[Converted, bool]]) -> None:
                done, is_new = future.result()
                stream.write(_line(done))
                stream.flush()
                _count(report, done, is_new)

            for name, kind in _media_below(folder, settings.kinds, report):
                target = str(output_name(Path(name), kind, settings.output))
                first = taken.setdefault(target, name)
                waiting.append(
                    pool.submit(worker.convert, name, kind, target, first, known.get(name))
                )
                if len(waiting) > 4 * workers:
                    finish(waiting.popleft())
            while waiting:
                finish(waiting.popleft())
        part.replace(ledger)
    except OSError as error:
        raise UserError(
            f"cannot be written: {error.strerror or error}",
            code="VT-USE-226",
            where=str(out),
            remedy="make room or give another folder; what is written stays, and is not done again",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
        worker.close()
    return report


class _Worker:
    """Converts one file at a time in each thread, with a decoder beside it."""

    def __init__(self, folder: Path, out: Path, settings: ConvertSettings) -> None:
        self._folder, self._out = folder, out
        self._root = os.path.realpath(folder)
        self._settings = settings
        spec = AudioSpec(min_seconds=0, max_seconds=settings.max_seconds)
        self._measure = replace(plain_settings(spec), output=settings.output, details=False)
        self._digests = {
            kind: digest_of([asdict(getattr(settings.output, kind)), settings.max_seconds])
            for kind in get_args(MediaKind)
        }
        self._local = threading.local()
        self._decoders: list[Decoder] = []

    def convert(
        self, name: str, kind: MediaKind, target: str, first: str, known: Converted | None
    ) -> tuple[Converted, bool]:
        """Convert a file; return its line of the ledger, and whether anything was done."""
        done = Converted(name, settings=self._digests[kind])
        try:
            if first != name:
                raise MediaError("same name", f"{name}: {first} becomes {target} too")
            path = find_file(self._folder / name, kind)
            if os.path.commonpath([self._root, os.path.realpath(path)]) != self._root:
                raise MediaError("path outside its root", f"{name} is a link out of the folder")
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            done = replace(done, size=path.stat().st_size, sha256=digest)
            if known is not None and self._is_current(done, known, target):
                return known, False
            data = self._decoder().measure(MediaFile(kind, path)).encoded
        except MediaError as error:
            return replace(done, reason=error.reason, detail=error.detail), True
        except OSError as error:
            return replace(done, reason=f"unreadable {kind}", detail=f"{name}: {error}"), True
        _write(self._out / target, data)
        return replace(done, target=target, target_size=len(data)), True

    def _is_current(self, found: Converted, known: Converted, target: str) -> bool:
        if known.target != target or (found.size, found.sha256, found.settings) != (
            known.size, known.sha256, known.settings,
        ):  # fmt: skip
            return False
        with suppress(OSError):
            return (self._out / target).stat().st_size == known.target_size
        return False

    def _decoder(self) -> Decoder:
        if not hasattr(self._local, "decoder"):
            self._local.decoder = Decoder(self._measure)
            self._decoders.append(self._local.decoder)
        decoder: Decoder = self._local.decoder
        return decoder

    def close(self) -> None:
        """End the decoders."""
        for decoder in self._decoders:
            decoder.close()


def _count(report: ConvertReport, done: Converted, is_new: bool) -> None:
    report.files += 1
    if done.reason:
        report.reasons[done.reason] += 1
        report.rejects.append(done)
    else:
        report.targets[done.source] = done.target
        report.written += is_new
        report.current += not is_new
    if report.files % _PROGRESS == 0:
        say(f"convert: {report.files} files, {report.reasons.total()} rejected")


def _media_below(
    folder: Path, kinds: tuple[MediaKind, ...], report: ConvertReport
) -> Iterator[tuple[str, MediaKind]]:
    by_ending: dict[str, MediaKind] = {end: kind for kind in kinds for end in ENDINGS[kind]}
    for place, folders, names in os.walk(folder, onerror=_refuse):
        folders.sort()
        for name in sorted(names):
            path = Path(place) / name
            kind = by_ending.get(path.suffix.lower())
            if kind is None:
                report.others += 1
            else:
                yield path.relative_to(folder).as_posix(), kind


def _refuse(error: OSError) -> None:
    """Stop at a folder that cannot be listed, rather than leave its files out in silence."""
    raise UserError(
        f"cannot be listed: {error.strerror}",
        code="VT-USE-227",
        where=str(error.filename),
        remedy="make it readable, or move it out of the folder",
    )


def _check_folders(folder: Path, out: Path) -> None:
    if not folder.is_dir():
        raise UserError(
            "is not a folder",
            code="VT-USE-174",
            where=str(folder),
            remedy="give the folder of the media",
        )
    real = folder.resolve()
    if real == out.resolve() or real in out.resolve().parents:
        raise UserError(
            "would be written into the folder that is read",
            code="VT-USE-175",
            where=str(out),
            remedy="give a folder outside it: originals stay as they are",
        )


def _read_ledger(path: Path) -> dict[str, Converted]:
    """Lines of a ledger by their source; what is no such line (a killed run's last) counts as not
    there."""
    found: dict[str, Converted] = {}
    with suppress(OSError), path.open(encoding="utf-8") as stream:
        for line in stream:
            with suppress(ValueError, TypeError):
                done = Converted(**json.loads(line))
                found[done.source] = done
    return found


def _line(done: Converted) -> str:
    return json.dumps(asdict(done), ensure_ascii=True) + "\n"


def _write(target: Path, data: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    try:
        part.write_bytes(data)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
