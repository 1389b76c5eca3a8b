"""Examining every row of a corpus, on one process or several, with the same result."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from multiprocessing.util import Finalize
from pathlib import Path
from types import TracebackType

from vita_train.data.media.apart import Decoder
from vita_train.data.prepare.row_encoder import Example, RowEncoder, measure_settings
from vita_train.data.prepare.tokenizer import Tokenizer, load_tokenizer
from vita_train.data.sources.reading import Reject, Row
from vita_train.data.sources.registry import AudioLimits
from vita_train.data.sources.source import RecordSource
from vita_train.recipe.schema import Recipe

_ROWS_PER_TASK = 64


class ParallelEncoder:
    """A context in which record files are examined.

    Args:
        recipe: settings.
        tokenizer_dir: directory of the run's tokenizer; each worker loads its own.
        workers: processes; 1 works in this one. Each has a process beside it that decodes media.
    """

    def __init__(self, recipe: Recipe, tokenizer_dir: Path, workers: int = 1) -> None:
        self._recipe = recipe
        self._tokenizer_dir = tokenizer_dir
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> ParallelEncoder:
        if self._workers > 1:
            # A fresh interpreter each: forking one that has threads of torch and the tokenizer can
            # hang.
            self._pool = ProcessPoolExecutor(
                self._workers,
                mp_context=get_context("spawn"),
                initializer=_start,
                initargs=(self._recipe, self._tokenizer_dir),
            )
        else:
            self._tokenizer = load_tokenizer(self._tokenizer_dir)
            self._decoder = Decoder(measure_settings(self._recipe))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
        else:
            self._decoder.close()

    def split(
        self, source: RecordSource, passing: Callable[[Row], None] | None = None
    ) -> Iterator[Example | Reject]:
        """Examine every row of a split; results come in the file's order.

        Args:
            source: of its rows.
            passing: gets every row that can be read, in this process and before its result comes.

        Raises:
            DataError: the file cannot be read.
        """
        rows = _shown(source.checked_rows(), passing)
        dataset, roots = source.dataset, source.roots
        if self._pool is None:
            encoder = RowEncoder(
                self._recipe, self._tokenizer, dataset, roots, self._decoder, source.audio
            )
            for row in rows:
                yield encoder.encode(row) if isinstance(row, Row) else row
            return
        waiting: deque[Future[list[Example | Reject]]] = deque()
        while True:
            task = list(islice(rows, _ROWS_PER_TASK))
            if task:
                waiting.append(self._pool.submit(_encode, dataset, dict(roots), source.audio, task))
            if not waiting:
                return
            if not task or len(waiting) > 2 * self._workers:
                yield from waiting.popleft().result()


def _shown(
    rows: Iterator[Row | Reject], passing: Callable[[Row], None] | None
) -> Iterator[Row | Reject]:
    for row in rows:
        if passing is not None and isinstance(row, Row):
            passing(row)
        yield row


_worker: list[tuple[Recipe, Tokenizer, Decoder]] = []


def _start(recipe: Recipe, tokenizer_dir: Path) -> None:
    import torch

    torch.set_num_threads(1)
    decoder = Decoder(measure_settings(recipe))
    Finalize(None, decoder.close, exitpriority=10)  # exit handlers do not run in such processes
    _worker[:] = [(recipe, load_tokenizer(tokenizer_dir), decoder)]


def _encode(
    dataset: str, roots: dict[str, Path], audio: AudioLimits | None, rows: list[Row | Reject]
) -> list[Example | Reject]:
    recipe, tokenizer, decoder = _worker[0]
    encoder = RowEncoder(recipe, tokenizer, dataset, roots, decoder, audio)
    return [encoder.encode(row) if isinstance(row, Row) else row for row in rows]
