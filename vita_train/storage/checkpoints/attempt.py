"""Attempts: each start of a stage's training gets an id of its own and a number higher than all
before it.

The number fences: of two processes that both believe they train a stage, the later one is right,
and the earlier one finds out before it commits anything. Where files go while they are on their way
to the store is decided here too.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from vita_train.errors import PeerLostError
from vita_train.storage.base import KeyExistsError, Store
from vita_train.storage.cache import remove_beside
from vita_train.storage.disk_errors import translate_os_errors
from vita_train.storage.host_cache import cache_dir
from vita_train.storage.local import LocalStore
from vita_train.storage.scratch import STAGING


@dataclass(frozen=True)
class Attempt:
    """One start of a stage's training, shared by all its ranks."""

    stage: str
    """Key prefix of the stage in its store, e.g. ``run/1.1``."""
    id: str
    """Unique; part of every key the attempt writes."""
    restarts: int
    """0 for the first start of the stage, then 1 more each time."""

    def step_prefix(self, step: int) -> str:
        """Return the key prefix of a step's files, without a slash at the end."""
        return f"{self.stage}/attempt-{self.id}/step-{step:08d}"


def begin_attempt(store: Store, stage: str) -> Attempt:
    """Register a new attempt. One rank does this and tells the others (`Attempt` is three plain
    values)."""
    attempt_id = uuid.uuid4().hex
    restarts = max(attempts(store, stage).values(), default=-1) + 1
    while True:
        try:
            store.write(_register(stage, restarts), _entry(attempt_id), if_absent=True)
        # Somebody else took the number: of two that start at once one gets the next
        except KeyExistsError:
            restarts += 1
            continue
        return Attempt(stage, attempt_id, restarts)


def _register(stage: str, restarts: int) -> str:
    return f"{stage}/attempts/restart-{restarts:06d}.json"


def _entry(attempt_id: str) -> bytes:
    return (json.dumps({"attempt": attempt_id}) + "\n").encode()


def attempts(store: Store, stage: str) -> dict[str, int]:
    """Return the registered attempts of a stage: id to restart count."""
    found = {}
    for key in store.list(f"{stage}/attempts/restart-"):
        number = key.rpartition("-")[2].removesuffix(".json")
        try:
            found[str(json.loads(store.read(key))["attempt"])] = int(number)
        except (ValueError, KeyError, TypeError):
            # Its number still counts, or a later attempt would take it
            found[f"unreadable-{number}"] = int(number)
    return found


def check_not_replaced(store: Store, attempt: Attempt) -> None:
    """Make sure that no other attempt has taken the stage over.

    Raises:
        PeerLostError: one has; what this one computes must not be committed.
    """
    own = _register(attempt.stage, attempt.restarts)
    # Numbers have six digits, so that the greatest key is the greatest number
    newest = max(store.list(f"{attempt.stage}/attempts/restart-"), default=own)
    # A store without conditional writes lets two attempts take one number; the register then names
    # the last of them.
    if newest > own or store.read(own) != _entry(attempt.id):
        raise PeerLostError(
            "a later start of this stage has taken over",
            code="VT-PEER-005",
            where=store.uri_of(max(newest, own)),
            remedy="let it run; do not start one run twice at the same time",
        )


def staging_folder(store: Store, attempt: Attempt, rank: int) -> Path:
    """Return an empty local folder for a rank's checkpoint files before they go to the store.

    It lies on the store's own file system where there is one, so that handing over is a rename.
    What earlier attempts left on this machine is removed.
    """
    if isinstance(store, LocalStore):
        parent = store.root / attempt.stage / STAGING
    else:
        name = hashlib.sha256(store.uri_of(attempt.stage).encode()).hexdigest()[:16]
        parent = cache_dir() / "staging" / name
    own = parent / attempt.id
    remove_beside(own)
    folder = own / f"rank-{rank}"
    with translate_os_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    return folder
