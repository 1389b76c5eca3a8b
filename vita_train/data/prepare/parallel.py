"""Parts made of the shards of a split, in one process or several, those that are there already
taken over."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from multiprocessing.util import Finalize
from pathlib import Path

from vita_train.data.media.apart import Decoder
from vita_train.data.prepare.cuts import Stretch, shards_of
from vita_train.data.prepare.part import Part, PartStore
from vita_train.data.prepare.row_encoder import measure_settings
from vita_train.data.prepare.shard_encoder import ShardEncoder, part_key, settings_digest
from vita_train.data.prepare.shards import Shard
from vita_train.data.prepare.tokenizer import SavedTokenizer
from vita_train.data.sources.source import RecordSource
from vita_train.errors import VitaError
from vita_train.recipe.schema import Recipe


class PartMaker:
    """A context in which splits become parts.

    Args:
        recipe: settings.
        tokenizer_dir: directory of the run's tokenizer; each worker loads its own.
        store: of the parts.
        workers: processes; 1 works in this one. Each has a process beside it that decodes media.
        share: number of this machine and how many there are, where each takes its shards in turn.
    """

    def __init__(
        self,
        recipe: Recipe,
        tokenizer_dir: Path,
        store: PartStore,
        workers: int = 1,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self._machine, self._machines = share
        self._turn = 0
        self._recipe = recipe
        self._tokenizer_dir = tokenizer_dir
        self._store = store
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None
        self.made = 0
        """Parts that were not there."""
        self.found = 0
        """Parts that were."""

    def __enter__(self) -> PartMaker:
        # Processes beside each other are the parallelism here.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        if self._workers > 1:
            # A fresh interpreter each: forking one that has threads of torch and the tokenizer can
            # hang.
            self._pool = ProcessPoolExecutor(
                self._workers,
                mp_context=get_context("spawn"),
                initializer=_start,
                initargs=(self._recipe, self._tokenizer_dir, self._store.root, self._store.base),
            )
        else:
            self._encoder = _encoder(self._recipe, self._tokenizer_dir, self._store)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
        else:
            self._encoder.close()

    def split(self, source: RecordSource, *, units: bool) -> Iterator[tuple[Sequence[int], Part]]:
        """Yield, in the file's order, the places of a shard's records in it and the shard's part.

        Args:
            source: of the records.
            units: collect the units of their transcripts.

        Raises:
            DataError: the file cannot be read, or a media root is missing or empty.
            VitaError: a worker was ended from outside.
        """
        settings = settings_digest(
            self._recipe, self._tokenizer_dir, source, self._store.base, units=units
        )
        waiting: deque[tuple[str, Sequence[int], Part | Future[Part]]] = deque()
        name = f"{source.dataset}/{source.split}"
        cuts: list[Stretch] = []
        for shard, stretch in shards_of(source, self._store.known.splits.get(name, ())):
            if stretch is not None:
                cuts.append(stretch)
            # Counted over all splits, so that small ones do not all fall to the same machine
            self._turn += 1
            if self._turn % self._machines != self._machine:
                continue
            key = part_key(settings, shard)
            if any(key == other for other, _, _ in waiting):  # the same records again
                yield from self._finished(waiting, 0)
            part = self._store.find(key, shard.rows)
            if part is not None:
                self.found += 1
            else:
                self.made += 1
            waiting.append((key, shard.rows, part or self._make(source, shard, key, units)))
            # Two for each worker keep all busy; results come in the file's order all the same
            yield from self._finished(waiting, 2 * self._workers if self._pool else 0)
        yield from self._finished(waiting, 0)
        self._store.keep_cuts(name, cuts)

    def _make(
        self, source: RecordSource, shard: Shard, key: str, units: bool
    ) -> Part | Future[Part]:
        if self._pool is None:
            return self._encoder.make(source, shard, key, units=units)
        return self._pool.submit(_work, source, shard, key, units)

    def _finished(
        self, waiting: deque[tuple[str, Sequence[int], Part | Future[Part]]], most: int
    ) -> Iterator[tuple[Sequence[int], Part]]:
        """Yield the first that wait until at most so many are left."""
        while len(waiting) > most:
            _, rows, part = waiting.popleft()
            try:
                part = part if isinstance(part, Part) else part.result()
            except BrokenProcessPool as error:
                raise VitaError(
                    "a process that prepares data was ended from outside",
                    code="VT-FAIL-017",
                    where=str(self._store.root),
                    remedy="look to the machine's memory and run the same command again: what is "
                    "done is kept",
                ) from error
            yield rows, self._store.used(part)


_worker: list[ShardEncoder] = []


def _start(recipe: Recipe, tokenizer_dir: Path, parts: Path, base: Path) -> None:
    if recipe.data.audio.store_features:
        import torch

        # One for each process: workers share the processors
        torch.set_num_threads(1)
    encoder = _encoder(recipe, tokenizer_dir, PartStore(parts, base))
    Finalize(None, encoder.close, exitpriority=10)  # exit handlers do not run in such processes
    _worker[:] = [encoder]


def _encoder(recipe: Recipe, tokenizer_dir: Path, store: PartStore) -> ShardEncoder:
    return ShardEncoder(
        recipe, SavedTokenizer(tokenizer_dir), Decoder(measure_settings(recipe)), store
    )


def _work(source: RecordSource, shard: Shard, key: str, units: bool) -> Part:
    return _worker[0].make(source, shard, key, units=units)
