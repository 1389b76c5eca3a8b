"""Upload and commit checkpoints in a thread, while training goes on.

The thread uses no collectives: ranks learn of each other through the store. Rank 0 waits there for
every rank's list of files, so that one slow or dead rank can delay a commit but never leave half of
one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vita_train.errors import PeerLostError
from vita_train.storage.base import Store
from vita_train.storage.checkpoints.attempt import Attempt
from vita_train.storage.checkpoints.commit import (
    absent_ranks,
    commit_checkpoint,
    latest_commit,
    save_rank_files,
)
from vita_train.storage.checkpoints.retention import retire


class AsyncCommitter:
    """One rank's background commits, one at a time.

    Args:
        store: where.
        attempt: this start of the stage, the same on every rank.
        rank: this rank; 0 commits.
        world_size: ranks whose files make a checkpoint.
        keep_last: checkpoints to keep.
        peer_timeout: seconds rank 0 waits for the other ranks' uploads.
        poll: seconds between looks at the store.
    """

    def __init__(
        self,
        store: Store,
        attempt: Attempt,
        rank: int,
        world_size: int,
        *,
        keep_last: int = 2,
        peer_timeout: float = 1800.0,
        poll: float = 0.25,
    ) -> None:
        self._store = store
        self._attempt = attempt
        self._rank = rank
        self._world_size = world_size
        self._keep_last = keep_last
        self._peer_timeout = peer_timeout
        self._poll = poll
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.committed_at: float | None = None
        """``time.monotonic()`` of the last commit; rank 0 only."""

    def submit(
        self,
        step: int,
        files: Mapping[str, Path],
        *,
        meta: Mapping[str, Any] | None = None,
        best: float | None = None,
    ) -> None:
        """Hand over a step's files; returns at once unless the step before is still under way.

        The files belong to the committer from now on (they are moved where possible). Every rank
        submits every step.

        Args:
            step: optimizer steps done.
            files: name in the checkpoint to local file; names are unique over all ranks.
            meta: small facts for the reader; rank 0's count.
            best: step of a checkpoint to keep beside the newest.

        Raises:
            VitaError: the step before could not be committed.
        """
        self.wait()
        self._thread = threading.Thread(
            target=self._run,
            args=(step, dict(files), dict(meta or {}), best),
            name=f"commit-step-{step}",
            daemon=True,
        )
        self._thread.start()

    def wait(self) -> None:
        """Wait until what was submitted is stored; on rank 0, until it is committed.

        Raises:
            VitaError: it could not be; said once, so that the caller decides whether to go on.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(
        self, step: int, files: dict[str, Path], meta: dict[str, Any], best: float | None
    ) -> None:
        try:
            save_rank_files(self._store, self._attempt, step, self._rank, files, move=True)
            if self._rank == 0:
                self._wait_for_peers(step)
                made = commit_checkpoint(
                    self._store, self._attempt, step, self._world_size, meta=meta
                )
                self.committed_at = time.monotonic()
                # Older ones go only once this one has been found as a restart would find it.
                found = latest_commit(self._store, self._attempt.stage)
                if found is not None and found.marker_key == made.marker_key:
                    retire(self._store, self._attempt, self._keep_last, best)
        except BaseException as error:  # carried to the thread that asked
            self._error = error

    def _wait_for_peers(self, step: int) -> None:
        deadline = time.monotonic() + self._peer_timeout
        while absent := absent_ranks(self._store, self._attempt, step, self._world_size):
            # monotonic: a clock that is set must not end the wait
            if time.monotonic() > deadline:
                raise PeerLostError(
                    f"ranks {absent} have not stored step {step} within {self._peer_timeout:.0f} s",
                    code="VT-PEER-006",
                    where=self._store.uri_of(self._attempt.step_prefix(step)),
                    remedy="see their logs, then run the same command again",
                )
            time.sleep(self._poll)
