"""Resumable checkpoints that are whole or do not count, on stores that cannot rename.

    <stage>/attempt-<id>/step-00001000/<files>        each rank's own files
    <stage>/attempt-<id>/step-00001000/rank-<r>.json  by a rank, its files stored: names, sizes,
                                                      sha256
    <stage>/attempt-<id>/step-00001000/manifest.json  by rank 0, every rank's list being there
    <stage>/committed/step-00001000.json              by rank 0, last: where the manifest is and its
                                                      sha256

A checkpoint exists once its marker does. Readers go by markers alone, check what they point to, and
fall back to the one before when anything is missing or has another size; the bytes themselves are
checked when they are restored.

On each rank: ``save_rank_files``; then, after a barrier or by polling, ``commit_checkpoint`` on
rank 0. `AsyncCommitter` does both in a thread while training goes on. To resume: ``latest_commit``
on rank 0, then ``restore`` on each.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from vita_train.errors import StorageError, UserError
from vita_train.recipe.base import Strict
from vita_train.storage.base import DamagedError, MissingKeyError, Store
from vita_train.storage.cache import remove_unfinished
from vita_train.storage.checkpoints.attempt import Attempt, check_not_replaced
from vita_train.storage.checkpoints.marker import (
    Marker,
    markers_and_others,
    read_marker,
    write_marker,
)
from vita_train.storage.digest import sha256_file
from vita_train.storage.disk_errors import translate_os_errors
from vita_train.storage.host_cache import locked
from vita_train.storage.local import LocalStore
from vita_train.storage.retry import read_twice

log = logging.getLogger(__name__)

#: Requests under way at once when a checkpoint's files are checked or fetched.
_THREADS = 8
_OLDER = "run the same command again: training goes on from the checkpoint before"


class StoredFile(Strict):
    """One file of a checkpoint."""

    sha256: str
    bytes: int


class RankFiles(Strict):
    """What one rank stored, by name below the step's prefix."""

    rank: int
    files: dict[str, StoredFile]


class StepManifest(Strict):
    """All of a checkpoint."""

    format: Literal["vita-train/checkpoint/v1"] = "vita-train/checkpoint/v1"
    attempt: str
    restarts: int
    step: int
    world_size: int
    ranks: tuple[RankFiles, ...]
    meta: dict[str, Any]
    """Small facts for the reader: recipe digest, topology, position in the data."""


@dataclass(frozen=True)
class Commit:
    """A checkpoint whose manifest is right and whose files are all there with their sizes."""

    marker_key: str
    prefix: str
    """Key prefix of the files."""
    manifest: StepManifest

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.manifest.step

    @property
    def meta(self) -> dict[str, Any]:
        """What the writer noted beside the files."""
        return self.manifest.meta

    @property
    def files(self) -> dict[str, StoredFile]:
        """Every rank's files by name."""
        return {name: file for part in self.manifest.ranks for name, file in part.files.items()}


@dataclass(frozen=True)
class PassedOver:
    """A checkpoint that was committed and cannot be used."""

    key: str
    """Of its marker."""
    marker: Marker | None
    """None where it cannot be read."""
    why: str


def save_rank_files(
    store: Store,
    attempt: Attempt,
    step: int,
    rank: int,
    files: Mapping[str, Path],
    *,
    move: bool = False,
) -> RankFiles:
    """Store one rank's files of a step, then the list of them.

    Args:
        store: where.
        attempt: this start of the stage.
        step: optimizer steps done.
        rank: whose files they are.
        files: name to local file. Names are unique over all ranks and may have folders; a rank may
            have none.
        move: hand the files over instead of copying them.

    Raises:
        UserError: a name is reserved or no key.
        StorageError: as `Store` says.
    """
    prefix = attempt.step_prefix(step)
    stored = {}
    for name, path in sorted(files.items()):
        if name == "manifest.json" or (name.startswith("rank-") and name.endswith(".json")):
            raise UserError(
                f"a checkpoint file may not be called {name!r}", code="VT-USE-100", where=str(path)
            )
        ref = store.upload(path, f"{prefix}/{name}", move=move)
        stored[name] = StoredFile(sha256=ref.sha256, bytes=ref.bytes)
    listed = RankFiles(rank=rank, files=stored)
    # Last: a list is proof that all of its files are stored
    store.write(f"{prefix}/rank-{rank}.json", listed.model_dump_json().encode())
    return listed


def absent_ranks(store: Store, attempt: Attempt, step: int, world_size: int) -> list[int]:
    """Return the ranks whose files of a step are not all stored yet."""
    prefix = f"{attempt.step_prefix(step)}/rank-"
    present = set(store.list(prefix))
    return [rank for rank in range(world_size) if f"{prefix}{rank}.json" not in present]


def commit_checkpoint(
    store: Store,
    attempt: Attempt,
    step: int,
    world_size: int,
    *,
    meta: Mapping[str, Any] | None = None,
) -> Commit:
    """Make a step's checkpoint count. Rank 0 only, after every rank's `save_rank_files`.

    Raises:
        PeerLostError: a later attempt has taken over the stage; its checkpoints count, not this
            one's.
        StorageError: a rank's list is missing or two ranks stored the same name.
    """
    prefix = attempt.step_prefix(step)
    with ThreadPoolExecutor(_THREADS) as pool:
        ranks = tuple(
            pool.map(
                lambda rank: read_twice(partial(_read_rank, store, f"{prefix}/rank-{rank}.json")),
                range(world_size),
            )
        )
    names = [name for part in ranks for name in part.files]
    twice = (
        sorted({name for name in names if names.count(name) > 1})
        if len(set(names)) < len(names)
        else []
    )
    if twice:
        raise StorageError(
            f"two ranks stored {', '.join(twice)}",
            code="VT-STORE-001",
            where=store.uri_of(prefix),
            remedy="report it: each rank's files need names of their own",
        )
    manifest = StepManifest(
        attempt=attempt.id,
        restarts=attempt.restarts,
        step=step,
        world_size=world_size,
        ranks=ranks,
        meta=dict(meta or {}),
    )
    # Serialised once: the marker's digest must be that of the bytes which are stored
    text = manifest.model_dump_json().encode()
    store.write(f"{prefix}/manifest.json", text)
    marker = Marker(
        manifest=f"{prefix}/manifest.json",
        sha256=hashlib.sha256(text).hexdigest(),
        attempt=attempt.id,
        restarts=attempt.restarts,
        step=step,
        digest=str((meta or {}).get("digest", "")),
    )
    check_not_replaced(store, attempt)
    marker_key = write_marker(store, attempt.stage, marker)
    check_not_replaced(store, attempt)  # while the marker was on its way
    return Commit(marker_key, prefix, manifest)


def latest_commit(
    store: Store,
    stage: str,
    *,
    refused: Collection[str] = (),
    passed_over: list[PassedOver] | None = None,
) -> Commit | None:
    """Return the newest checkpoint that is whole, or None.

    Args:
        store: where.
        stage: key prefix of the stage.
        refused: marker keys to pass over, e.g. because `restore` found damaged bytes.
        passed_over: takes what is there and cannot be used, one entry a marker.

    Raises:
        StorageError, UserError: the store itself failed; a damaged checkpoint is passed over with a
            warning.
    """
    readable, unreadable = markers_and_others(store, stage)
    noted = [] if passed_over is None else passed_over
    noted += [PassedOver(key, None, f"{store.uri_of(key)} is no marker") for key in unreadable]
    for key, marker in readable:
        if key in refused:
            continue
        try:
            return read_twice(partial(_check, store, key, marker))
        except (DamagedError, MissingKeyError) as error:
            noted.append(PassedOver(key, marker, f"step {marker.step}: {error.where} {error.what}"))
            log.warning("checkpoint of step %d passed over: %s", marker.step, error)
    return None


def commit_at(store: Store, key: str) -> Commit:
    """Return the checkpoint of a marker that another rank chose, after it looked at the files: two
    requests.

    Raises:
        MissingKeyError: this rank does not see it.
        DamagedError: it sees another.
    """
    marker = read_marker(store, key)
    if marker is None:
        raise MissingKeyError("no marker is there", code="VT-STORE-018", where=store.uri_of(key))
    return read_twice(partial(_read_manifest, store, key, marker))


def restore(
    store: Store, commit: Commit, folder: Path, *, select: Callable[[str], bool] | None = None
) -> Path:
    """Return a local folder that holds a checkpoint's files, each checked by its sha256.

    Args:
        store: where.
        commit: what `latest_commit` returned.
        folder: where to put files that are not on this machine. Ranks may share it: one fetches,
            the others find them.
        select: says for a name whether it is wanted; all are by default.

    Raises:
        DamagedError: a file is not what was stored; pass ``commit.marker_key`` to `latest_commit`
            as refused.
    """
    wanted = {name: file for name, file in commit.files.items() if select is None or select(name)}
    if isinstance(store, LocalStore):
        # Where they lie: nobody changes a committed file in place, so nothing is copied
        local = store.root / commit.prefix
        _for_each(lambda item: _check_bytes(local / item[0], item[1]), wanted.items())
        return local
    # Beside the folder, not in it: its content is what a checkpoint holds, and nothing else
    with locked(folder.with_name(f"{folder.name}.lock")):
        remove_unfinished(folder)
        _for_each(
            lambda item: _fetch(store, f"{commit.prefix}/{item[0]}", folder / item[0], item[1]),
            wanted.items(),
        )
    return folder


def _read_rank(store: Store, key: str) -> RankFiles:
    try:
        return RankFiles.model_validate_json(store.read(key))
    except ValidationError as error:
        raise DamagedError(
            "is not a rank's list of files",
            code="VT-STORE-019",
            where=store.uri_of(key),
            remedy=_OLDER,
        ) from error


def _check(store: Store, key: str, marker: Marker) -> Commit:
    """Return what a marker points to, if all of its files are there with their sizes: one listing
    says so."""
    commit = _read_manifest(store, key, marker)
    sizes = store.sizes(f"{commit.prefix}/")
    for name, file in commit.files.items():
        file_key = f"{commit.prefix}/{name}"
        if (size := sizes.get(file_key)) is None:
            raise MissingKeyError(
                "does not exist", code="VT-STORE-020", where=store.uri_of(file_key), remedy=_OLDER
            )
        if size != file.bytes:
            raise DamagedError(
                f"has {size} bytes, expected {file.bytes}",
                code="VT-STORE-021",
                where=store.uri_of(file_key),
                remedy=_OLDER,
            )
    return commit


def _read_manifest(store: Store, key: str, marker: Marker) -> Commit:
    text = store.read(marker.manifest)
    where = store.uri_of(marker.manifest)
    if hashlib.sha256(text).hexdigest() != marker.sha256:
        raise DamagedError(
            "is not the manifest that was committed (sha256 differs)",
            code="VT-STORE-022",
            where=where,
            remedy=_OLDER,
        )
    try:
        manifest = StepManifest.model_validate_json(text)
    except ValidationError as error:
        raise DamagedError(
            "is not a checkpoint manifest of this version",
            code="VT-STORE-023",
            where=where,
            remedy=_OLDER,
        ) from error
    return Commit(key, marker.manifest.rpartition("/")[0], manifest)


def _check_bytes(path: Path, file: StoredFile) -> None:
    if not path.is_file():
        raise MissingKeyError("does not exist", code="VT-STORE-024", where=str(path), remedy=_OLDER)
    with translate_os_errors(path):
        found = sha256_file(path)
    if found != file.sha256:
        raise DamagedError(
            "does not hold the bytes it was stored with (sha256 differs)",
            code="VT-STORE-025",
            where=str(path),
            remedy=_OLDER,
        )


def _fetch(store: Store, key: str, path: Path, file: StoredFile) -> None:
    # Fetched by another rank of this node, or before a restart
    if path.is_file() and path.stat().st_size == file.bytes and sha256_file(path) == file.sha256:
        return
    store.download(key, path, sha256=file.sha256)


def _for_each(
    work: Callable[[tuple[str, StoredFile]], None], items: Iterable[tuple[str, StoredFile]]
) -> None:
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(work, items))
