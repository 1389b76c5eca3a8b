"""Checkpoints of a running stage: written while it trains, found again when it starts.

The position in the data is the step number, and the random state of a step is a function of seed,
step and rank, so a checkpoint holds weights, optimizer state and a few counters, nothing else.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vita_train.console import say, warn
from vita_train.errors import CheckpointError, VitaError
from vita_train.recipe.platform import GRACE
from vita_train.storage.base import DamagedError, MissingKeyError, Store
from vita_train.storage.cache import remove_beside
from vita_train.storage.checkpoints.attempt import Attempt, begin_attempt, staging_folder
from vita_train.storage.checkpoints.commit import (
    Commit,
    PassedOver,
    commit_at,
    latest_commit,
    restore,
)
from vita_train.storage.checkpoints.committer import AsyncCommitter
from vita_train.storage.disk_errors import detect_full_disk, translate_os_errors
from vita_train.storage.host_cache import cache_dir
from vita_train.training.engines.base import Engine
from vita_train.training.parallel.distributed import World, broadcast_json, sum_over_ranks

_COUNTERS = "counters.json"


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed every generator of the process for one step: dropout and the like become a function of
    these three."""
    mixed = int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0])
    # 63 bits for torch, 32 for numpy: as much as each takes
    torch.manual_seed(mixed >> 1)
    random.seed(mixed)
    np.random.seed(mixed % 2**32)


class Checkpoints:
    """This rank's part in the checkpoints of one stage.

    Args:
        store: the run's store.
        prefix: key prefix of the stage, ``<run>/<stage>``.
        world: this rank among all.
        digest: of everything that determines the stage; checkpoints of another digest are not
            resumed from.
        keep_last: checkpoints to keep.
        extend: the stage's extensions; a checkpoint within other ones is not resumed from.
    """

    def __init__(
        self,
        store: Store,
        prefix: str,
        world: World,
        digest: str,
        *,
        keep_last: int,
        extend: Sequence[int] = (),
    ) -> None:
        self._store = store
        self._prefix = prefix
        self._world = world
        self._digest = digest
        self._keep_last = keep_last
        self._extend = list(extend)
        self.passed_over: dict[str, str] = {}
        """Checkpoints of this stage that could not be used when it started: key of the marker to
        why."""
        self.last_step: int | None = None
        """Step of the newest checkpoint that was restored or handed over."""
        self._committer: AsyncCommitter | None = None
        self._staging = Path()
        self._saved_from = 0.0
        self._warned = False
        # By address: runs of the same name in two stores must not share a folder
        name = hashlib.sha256(store.uri_of(prefix).encode()).hexdigest()[:16]
        self._restored = cache_dir() / "restore" / name

    def restore(self, engine: Engine) -> dict[str, Any] | None:
        """Load the newest whole checkpoint into the engine; return its counters, or None if there
        is none.

        Raises:
            CheckpointError: the engine cannot take the state (another engine, or another number of
                ranks).
        """
        refused: list[str] = []
        self.passed_over.clear()
        while (commit := self._newest(refused)) is not None:
            folder = self._restored / f"{commit.manifest.attempt}-{commit.step}"
            damaged: VitaError | None = None
            try:
                folder = restore(self._store, commit, folder, select=self._select(engine, commit))
            except (DamagedError, MissingKeyError) as error:
                damaged = error
            # All pass over what one of them cannot read, or they would go on from different steps
            if sum_over_ranks([damaged is not None])[0]:
                refused.append(commit.marker_key)
                why = (
                    f"{damaged.where} {damaged.what}"
                    if damaged
                    else "another rank found a file damaged"
                )
                self._pass_over(commit.marker_key, f"step {commit.step}: {why}")
                continue
            # Only what was copied here may be removed; a local store hands out its own folder
            if folder.parent == self._restored:
                remove_beside(folder)
            engine.load(folder)
            self.last_step = commit.step
            counters: dict[str, Any] = json.loads((folder / _COUNTERS).read_text(encoding="utf-8"))
            self._check_not_lost(found=True)
            return counters
        self._check_not_lost(found=False)
        return None

    def _select(self, engine: Engine, commit: Commit) -> Callable[[str], bool] | None:
        """Return which files of a checkpoint this machine needs; None for all of them."""
        world = self._world
        if world.size == 1 or world.size != commit.manifest.world_size:
            return None
        if not engine.reads_own_files:
            return None
        first = world.rank - world.local_rank
        # Rank 0's file holds what all ranks share
        ranks = {0, *range(first, first + int(os.environ.get("LOCAL_WORLD_SIZE", "1")))}
        parts = [part for part in commit.manifest.ranks if part.rank in ranks]
        return {name for part in parts for name in part.files}.__contains__

    def _pass_over(self, key: str, why: str) -> None:
        """Note, once, a checkpoint of this stage that cannot be used."""
        if key not in self.passed_over:
            self.passed_over[key] = why

    def _check_not_lost(self, *, found: bool) -> None:
        """Tell what was passed over, and go on only if there was something to go on from.

        Raises:
            CheckpointError: this stage has checkpoints, and none of them can be used.
        """
        passed_over: dict[str, str] = broadcast_json(
            self.passed_over if self._world.rank == 0 else None
        )
        self.passed_over = passed_over
        if not passed_over:
            return
        if not found:
            stage = self._prefix.rpartition("/")[2]
            raise CheckpointError(
                f"none of the {len(passed_over)} checkpoints of this stage can be used: "
                + "; ".join(list(passed_over.values())[:5]),
                code="VT-WEIGHTS-016",
                where=self._store.uri_of(f"{self._prefix}/committed"),
                remedy=f"mend the storage and run the same command again, or begin the stage anew "
                f"on purpose with "
                f"vita-train run and --only {stage} --force, which gives these checkpoints up",
            )
        if self._world.rank == 0:
            for why in passed_over.values():
                warn(
                    f"a checkpoint was passed over, training goes on from step {self.last_step}: "
                    f"{why}"
                )

    def _newest(self, refused: list[str]) -> Commit | None:
        """Return rank 0's choice on every rank."""
        # Rank 0 alone lists the store: two listings may differ while one is being written
        commit = self._newest_of_this_stage(refused) if self._world.rank == 0 else None
        key = broadcast_json(commit.marker_key if commit else None)
        if key is None or commit is not None:
            return commit
        return _read_commit(self._store, key)

    def _newest_of_this_stage(self, refused: list[str]) -> Commit | None:
        """Return the newest checkpoint with this digest that lies on the way to this stage's
        end."""
        while True:
            noted: list[PassedOver] = []
            commit = latest_commit(self._store, self._prefix, refused=refused, passed_over=noted)
            for other in noted:
                # Where the marker cannot be read either, it may well be this stage's.
                if other.marker is None or other.marker.digest in ("", self._digest):
                    self._pass_over(other.key, other.why)
            if commit is None:
                return None
            # The newest one is of other settings: an older one that would fit is from before those,
            # and is not gone back to
            if commit.meta.get("digest") != self._digest:
                return None
            extended = commit.meta.get("extended", [])
            # Extensions only append: a checkpoint fits if those it has entered begin today's list
            if extended == self._extend[: len(extended)]:
                return commit
            refused.append(commit.marker_key)

    def begin(self) -> Attempt:
        """Register this start of the stage and return it; needed before the first save."""
        # One attempt for all ranks: their files are put under its name
        attempt = begin_attempt(self._store, self._prefix) if self._world.rank == 0 else None
        attempt = Attempt(
            *broadcast_json([attempt.stage, attempt.id, attempt.restarts] if attempt else None)
        )
        self._staging = staging_folder(self._store, attempt, self._world.rank)
        self._committer = AsyncCommitter(
            self._store, attempt, self._world.rank, self._world.size, keep_last=self._keep_last
        )
        return attempt

    def save(
        self,
        engine: Engine,
        step: int,
        counters: dict[str, Any],
        *,
        extended: Sequence[int] = (),
        best: float | None = None,
    ) -> None:
        """Write the state after ``step`` steps and hand it over; storing goes on in the background.

        Args:
            engine: what trains.
            step: steps done.
            counters: what `restore` gives back.
            extended: the extensions that these steps reach into.
            best: step of the checkpoint with the best measure so far, which is kept.

        Raises:
            UserError: there is no space for it on this machine.
            VitaError: the checkpoint before could not be stored.
        """
        assert self._committer is not None, "begin() comes first"
        # One at a time: the engine's staging folder and the committer hold a single checkpoint
        self.wait()
        self._saved_from = time.monotonic()
        folder = self._staging / f"step-{step}"
        # Left by an attempt that was killed while it wrote this step
        shutil.rmtree(folder, ignore_errors=True)
        with translate_os_errors(folder):
            folder.mkdir(parents=True)
        with detect_full_disk(folder):
            engine.save(folder)
            if self._world.rank == 0:
                (folder / _COUNTERS).write_text(json.dumps(counters), encoding="utf-8")
        self.last_step = step
        files = {
            str(path.relative_to(folder)): path
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        self._committer.submit(
            step,
            files,
            meta={"digest": self._digest, "step": step, "extended": list(extended)},
            best=best,
        )

    def committed_at(self) -> float | None:
        """Return the ``time.monotonic()`` of this process's last commit; None before the first, and
        beyond rank 0."""
        return None if self._committer is None else self._committer.committed_at

    def wait(self) -> None:
        """Wait until everything handed over is stored (on rank 0: committed).

        Raises:
            VitaError: it could not be.
        """
        if self._committer is not None:
            self._committer.wait()
            self._check_grace(self._committer.committed_at or 0.0)

    def _check_grace(self, committed: float) -> None:
        """Warn once, on rank 0, where a pod that is asked to stop would be killed before its state
        is safe."""
        seconds, grace = committed - self._saved_from, float(os.environ.get(GRACE, "inf"))
        if seconds > 0 and 2 * seconds > grace and not self._warned:
            self._warned = True
            say(
                f"warning: a checkpoint took {seconds:.0f} s to save, and pods are killed "
                f"{grace:.0f} s after they are "
                "asked to stop, when one may be under way: raise platform.pod.grace to "
                f"{math.ceil(seconds / 30) * 75}, or a stop may lose the steps since the last one"
            )


def _read_commit(store: Store, key: str) -> Commit:
    """Return the checkpoint that rank 0 chose, as this rank sees it."""
    try:
        return commit_at(store, key)
    except MissingKeyError as error:
        raise MissingKeyError(
            "this rank does not see the checkpoint that rank 0 resumes from",
            code="VT-STORE-035",
            where=store.uri_of(key),
            remedy="storage.root must be the same store on every node",
        ) from error
