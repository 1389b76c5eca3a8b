"""Rows examined beside each other, in order: their media decoded, and with a recipe their length
measured as preparation does."""

from __future__ import annotations

import os
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from vita_train.data.media import MediaError
from vita_train.data.media.apart import Decoder
from vita_train.data.media.details import Details
from vita_train.data.media.measure import Measured, MeasureSettings, MediaFile
from vita_train.data.prepare.row_encoder import (
    Example,
    RowEncoder,
    check_special,
    inside_root,
    measure_settings,
)
from vita_train.data.prepare.tokenizer import SavedTokenizer, load_tokenizer
from vita_train.data.sources.reading import MediaRef, Reject, Row
from vita_train.data.sources.registry import AudioLimits
from vita_train.data.sources.source import RecordSource
from vita_train.errors import UserError
from vita_train.recipe.audio import SubsamplingAdapterSpec
from vita_train.recipe.data import AudioSpec, DataSpec
from vita_train.recipe.schema import Recipe

_ROWS_PER_TASK = 16


@dataclass
class Examined:
    """A row and what was found of it."""

    row: Row | Reject
    result: Example | Reject | None
    """What preparation would make of it; None of a good row where there is no recipe."""
    media: list[tuple[str, Details]] = field(default_factory=list)
    """Kind and facts of the files that could be decoded, images, videos and audio in order."""

    @property
    def reject(self) -> Reject | None:
        """Why the row cannot be used."""
        return self.result if isinstance(self.result, Reject) else None


def plain_settings(audio: AudioSpec | None = None, *, preview: bool = False) -> MeasureSettings:
    """Return how media are measured where no recipe says it."""
    data = DataSpec(audio=audio or AudioSpec(max_seconds=3600.0))
    return MeasureSettings(data, 448, SubsamplingAdapterSpec(), details=True, preview=preview)


class _Recording(Decoder):
    """A decoder that remembers the facts of what it decoded."""

    def __init__(self, settings: MeasureSettings) -> None:
        super().__init__(settings)
        self.media: list[tuple[str, Details]] = []

    def measure(self, file: MediaFile) -> Measured:
        measured = super().measure(file)
        if measured.details is not None:
            self.media.append((file.kind, measured.details))
        return measured


class Examiner:
    """A context in which the rows of splits are examined.

    Decoders run in processes of their own, one beside each thread, with limits of time and memory.

    Args:
        recipe: settings of data, model and stages; without one lengths are not measured.
        tokenizer_dir: directory of the run's tokenizer, where there is a recipe.
        workers: threads.
        audio: limits of audio where there is no recipe.
        media: false looks at no file.
    """

    def __init__(
        self,
        recipe: Recipe | None = None,
        tokenizer_dir: Path | None = None,
        *,
        workers: int = 1,
        audio: AudioSpec | None = None,
        media: bool = True,
    ) -> None:
        self._recipe, self._tokenizer_dir = recipe, tokenizer_dir
        self._workers, self._media = workers, media
        if recipe is None:
            self._settings = plain_settings(audio)
        else:
            self._settings = MeasureSettings(
                **{**vars(measure_settings(recipe)), "details": True, "with_waves": False}
            )
        self._local = threading.local()
        self._decoders: list[_Recording] = []
        self._pool = ThreadPoolExecutor(workers)

    def __enter__(self) -> Examiner:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        for decoder in self._decoders:
            decoder.close()

    def split(self, source: RecordSource) -> Iterator[Examined]:
        """Examine every row of a split; results come in the file's order.

        Raises:
            DataError: the file cannot be read, or a media root is missing or empty.
        """
        rows = source.checked_rows() if self._media else source.rows()
        if not self._media and self._recipe is None:
            for row in rows:
                yield Examined(row, row if isinstance(row, Reject) else None)
            return
        waiting: deque[Future[list[Examined]]] = deque()
        while True:
            task = list(islice(rows, _ROWS_PER_TASK))
            if task:
                waiting.append(self._pool.submit(self._examine, source, task))
            if not waiting:
                return
            if not task or len(waiting) > 2 * self._workers:
                yield from waiting.popleft().result()

    def _examine(self, source: RecordSource, rows: list[Row | Reject]) -> list[Examined]:
        decoder = self._decoder()
        encoder = None
        if self._recipe is not None:
            if not hasattr(self._local, "tokenizer"):  # one a thread: they cannot be shared
                assert self._tokenizer_dir is not None
                self._local.tokenizer = SavedTokenizer(self._tokenizer_dir)
            encoder = RowEncoder(
                self._recipe,
                self._local.tokenizer,
                source.dataset,
                source.roots,
                decoder,
                source.audio,
            )
        named = {
            row.row: _files_of(row, source.roots)
            for row in rows
            if isinstance(row, Row) and encoder is None
        }
        decoder.expect(file for files, _ in named.values() for file in files)
        found = []
        for row in rows:
            decoder.media = []
            result: Example | Reject | None
            if isinstance(row, Reject):
                result = row
            elif encoder is not None:
                result = encoder.encode(row)
            else:
                result = _measured(row, *named[row.row], decoder, source.audio)
            found.append(Examined(row, result, decoder.media))
        return found

    def _decoder(self) -> _Recording:
        if not hasattr(self._local, "decoder"):
            self._local.decoder = _Recording(self._settings)
            self._decoders.append(self._local.decoder)
        decoder: _Recording = self._local.decoder
        return decoder


@contextmanager
def length_examiner(recipe: Recipe, *, workers: int = 1) -> Iterator[Examiner]:
    """An examiner that measures records of any length in the recipe's tokens, up to the model's
    context.

    Raises:
        UserError: the recipe names no tokenizer.
        DataError: the tokenizer cannot be loaded.
    """
    if recipe.tokenizer.source is None:
        raise UserError(
            "the recipe trains its tokenizer on its own data, so that one file has no token counts",
            code="VT-USE-176",
            where="tokenizer.source",
            remedy="name a recipe with a tokenizer, or --set tokenizer.source=NAME",
        )
    audio = recipe.data.audio.model_copy(update={"store_features": False})
    data = recipe.data.model_copy(update={"audio": audio})
    # Without stages nothing but the model's context bounds a record.
    unbounded = recipe.model_copy(update={"stages": {}, "data": data})
    with tempfile.TemporaryDirectory() as scratch:
        load_tokenizer(recipe.tokenizer.source).save_pretrained(scratch)
        with Examiner(unbounded, Path(scratch), workers=workers) as examiner:
            yield examiner


def _files_of(row: Row, roots: Mapping[str, Path]) -> tuple[list[MediaFile], MediaError | None]:
    """Return the files of a row up to the first that is none of its root's, and what is wrong with
    that."""
    files = []
    try:
        for file in media_of(row, roots):
            files.append(file)
    except MediaError as error:
        return files, error
    return files, None


def _measured(
    row: Row,
    files: Sequence[MediaFile],
    fault: MediaError | None,
    decoder: Decoder,
    audio: AudioLimits | None,
) -> Reject | None:
    """Decode the media of a row; return why it cannot be used, or None.

    Args:
        row: it.
        files, fault: its files, and what is wrong with the one behind them.
        decoder: decodes them.
        audio: of the dataset, if it is an audio special set.
    """
    try:
        for file in files:
            measured = decoder.measure(file)
            if audio is not None and file.kind == "audio" and measured.details is not None:
                check_special(measured.details.seconds, audio, str(file.path))
        if fault is not None:
            raise fault
    except MediaError as error:
        return Reject(row.row, error.reason, error.detail, row.id)
    return None


def media_of(row: Row, roots: Mapping[str, Path]) -> Iterator[MediaFile]:
    """Yield the files of a row, images, videos and audio in order.

    Raises:
        MediaError: a link leads out of its root.
    """

    def path(ref: MediaRef) -> Path:
        return inside_root(ref, roots, os.path.realpath(roots[ref.root]))

    span = (row.record.start, row.record.end)
    yield from (MediaFile("image", path(ref)) for ref in row.images)
    yield from (MediaFile("video", path(ref), span=span) for ref in row.videos)
    yield from (MediaFile("audio", path(ref)) for ref in row.audios)
