"""Tar shards of videos in the WebDataset layout: broken clips left out, and the index files by
which shards are read. A sample is the files of one name up to its first dot."""

from __future__ import annotations

import json
import shutil
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from vita_train.data.check.examine import plain_settings
from vita_train.data.media import MediaError
from vita_train.data.media.apart import Decoder
from vita_train.data.media.measure import MediaFile
from vita_train.errors import DataError, UserError
from vita_train.storage.whole_file import whole_file

META, INDEX = ".wdsmeta.json", "wids-meta.json"
_VIDEOS = (".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v")
_NO_VIDEO = "no video"


@dataclass
class Cleaned:
    """Counts: every sample that was read was kept or rejected."""

    samples: int = 0
    kept: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


def clean_shards(folder: Path, out: Path) -> Cleaned:
    """Write each tar of a folder under its name without the samples whose video cannot be decoded,
    and its index; those stand, with their reasons, in ``NAME.rejects.jsonl``. Videos are decoded in
    a process of their own with limits of time and memory.

    A shard with its index is there already and not done again.

    Raises:
        UserError: there is no tar, or ``out`` is the folder itself.
        DataError: a tar is damaged.
        OSError: it cannot be written.
    """
    shards = _tars(folder)
    if out.exists() and out.samefile(folder):
        raise UserError(
            "is read, and would be overwritten",
            code="VT-USE-296",
            where=str(out),
            remedy="give another folder to write",
        )
    out.mkdir(parents=True, exist_ok=True)
    counts = Cleaned()
    with Decoder(plain_settings()) as decoder:
        for shard in shards:
            target = out / shard.name
            if not _meta(target).is_file() or not target.is_file():
                _clean(shard, target, decoder)
            _count(target, counts)
    # The samples that were counted while they were written are not read again
    _write_index(
        out, [_read(_meta(shard)) or _entry(shard, _samples(shard)) for shard in _tars(out)]
    )
    return counts


def index_shards(folder: Path) -> int:
    """Write the index of each tar and that of the folder, by name; return the number of samples.

    Raises:
        UserError: there is no tar.
        DataError: a tar is damaged.
    """
    entries = [_entry(shard, _samples(shard)) for shard in _tars(folder)]
    _write_index(folder, entries)
    return sum(entry["nsamples"] for entry in entries)


def _entry(shard: Path, samples: int) -> dict[str, Any]:
    """Write the index of a tar and return it."""
    entry = {"url": shard.name, "nsamples": samples, "filesize": shard.stat().st_size}
    _write_json(_meta(shard), entry)
    return entry


def _write_index(folder: Path, entries: list[dict[str, Any]]) -> None:
    _write_json(folder / INDEX, {"wids_version": 1, "shardlist": entries})


def _clean(shard: Path, target: Path, decoder: Decoder) -> None:
    part = target.with_name(f"{target.name}.part")
    rejects = target.with_name(f"{target.stem}.rejects.jsonl")
    kept = 0
    try:
        with (
            _sound(shard),
            tempfile.TemporaryDirectory(prefix="vita-train-") as scratch,
            tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as written,
            whole_file(rejects) as listed,
        ):
            for key, files in _grouped(shard, Path(scratch)):
                if reason := _fault(files, decoder):
                    listed.write(
                        json.dumps({"where": f"{shard.name}:{key}", "reason": reason}) + "\n"
                    )
                    continue
                kept += 1
                for name, path in files.items():
                    entry = tarfile.TarInfo(name)  # without times and owners
                    entry.size = path.stat().st_size
                    with path.open("rb") as stream:
                        written.addfile(entry, stream)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    _entry(target, kept)


def _fault(files: dict[str, Path], decoder: Decoder) -> str:
    videos = [path for name, path in files.items() if name.lower().endswith(_VIDEOS)]
    if not videos:
        return _NO_VIDEO
    try:
        for path in videos:
            decoder.measure(MediaFile("video", path))
    except MediaError as error:
        return error.reason
    return ""


def _grouped(shard: Path, scratch: Path) -> Iterator[tuple[str, dict[str, Path]]]:
    """Yield the samples of a tar, their files laid out in a folder that is emptied for the next."""
    key, files = "", dict[str, Path]()
    for name, stream in _members(shard):
        if files and _key(name) != key:
            yield key, files
            files = {}
        if not files:
            for path in scratch.iterdir():
                path.unlink()
        key = _key(name)
        files[name] = scratch / f"{len(files)}{PurePosixPath(name).suffix[:8]}"
        with files[name].open("wb") as target:
            shutil.copyfileobj(stream, target)
    if files:
        yield key, files


def _members(shard: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(shard, "r:") as tar:
        for entry in tar:
            stream = tar.extractfile(entry) if entry.isfile() else None
            if stream is not None:
                yield entry.name, stream


@contextmanager
def _sound(shard: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError) as error:
        raise DataError(
            f"is damaged: {error}",
            code="VT-DATA-139",
            where=str(shard),
            remedy="fetch it again",
        ) from error


def _samples(shard: Path) -> int:
    with _sound(shard):
        return len({_key(name) for name, _ in _members(shard)})


def _write_json(path: Path, value: Any) -> None:
    with whole_file(path) as stream:
        json.dump(value, stream, indent=1)


def _key(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_name(path.name.partition(".")[0] or path.name))


def _count(target: Path, counts: Cleaned) -> None:
    known = _read(_meta(target)) or {}
    rejects = target.with_name(f"{target.stem}.rejects.jsonl")
    lines = rejects.read_text(encoding="utf-8").splitlines() if rejects.is_file() else []
    counts.kept += int(known.get("nsamples", 0))
    counts.samples += int(known.get("nsamples", 0)) + len(lines)
    counts.reasons.update(json.loads(line)["reason"] for line in lines)


def _meta(shard: Path) -> Path:
    return shard.with_name(f"{shard.name}{META}")


def _read(meta: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(meta.read_bytes())
    except (OSError, ValueError):
        return None
    return (
        value if isinstance(value, dict) and {"url", "nsamples", "filesize"} <= set(value) else None
    )


def _tars(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.tar")) if folder.is_dir() else []
    if not found:
        raise UserError(
            "holds no tar",
            code="VT-USE-297",
            where=str(folder),
            remedy="give the folder with the shards",
        )
    return found
