"""A shard made a part: a pure function of its records, the settings and the media they name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

import vita_train
from vita_train.data.media.apart import Decoder
from vita_train.data.prepare.ctc_vocab import pieces
from vita_train.data.prepare.index_writer import PART_SCHEMA, rows_batch, stored
from vita_train.data.prepare.ledger import Counts
from vita_train.data.prepare.part import (
    FEATURES,
    PART_FORMAT,
    ROWS,
    Part,
    PartInfo,
    PartStore,
    RejectedRow,
    Stamp,
    below,
    file_notes,
    places_digest,
    stamps_of,
)
from vita_train.data.prepare.row_encoder import Example, RowEncoder, is_transcribed, limits_of
from vita_train.data.prepare.shards import Shard
from vita_train.data.prepare.tokenizer import Tokenizer
from vita_train.data.sources.reading import Reject, Row
from vita_train.data.sources.source import RecordSource
from vita_train.data.templates import load_template
from vita_train.recipe.corpus import corpus_settings
from vita_train.recipe.schema import Recipe
from vita_train.storage.digest import digest_of, sha256_file

#: Records that are encoded together: the tokenizer gains nothing by more. Waves of audio are large.
_TOGETHER, _TOGETHER_WITH_WAVES = 256, 16


def settings_digest(
    recipe: Recipe, tokenizer_dir: Path, source: RecordSource, base: Path, *, units: bool
) -> str:
    """Return the digest of all that the parts of a split depend on, but for records and media;
    ``base`` is the registry's folder."""
    settings: dict[str, Any] = corpus_settings(recipe)
    # Of these a split depends on its own limits, on the tokenizer itself, and not at all.
    for name in ("stages", "tokenizer"):
        del settings[name]
    del settings["data"]["max_reject_share"]
    files = sorted(path for path in tokenizer_dir.iterdir() if path.is_file())
    return digest_of(
        {
            "format": PART_FORMAT,
            # Code is not in the digest: a release may decode or encode otherwise
            "version": vita_train.__version__,
            "settings": settings,
            "tokenizer": {path.name: sha256_file(path) for path in files},
            "template": load_template(recipe.data.template).model_dump(mode="json"),
            "limits": asdict(limits_of(recipe, source.dataset)),
            "transcribed": is_transcribed(recipe, source.dataset),
            "roots": {key: below(root, base) for key, root in source.roots.items()},
            "rules": asdict(source.rules),
            "audio": source.audio.model_dump(mode="json") if source.audio else None,
            "speakers": source.split_off.pattern
            if source.split_off and source.split_off.by == "speaker"
            else None,
            "units": units,
        }
    )


def part_key(settings: str, shard: Shard) -> str:
    """Return the name of a shard's part."""
    return digest_of([settings, shard.content])


class ShardEncoder:
    """Makes parts, in the process that it is in.

    Args:
        recipe: settings.
        tokenizer: the run's.
        decoder: decodes media in a process of its own.
        store: where parts go.
    """

    def __init__(
        self, recipe: Recipe, tokenizer: Tokenizer, decoder: Decoder, store: PartStore
    ) -> None:
        self._recipe = recipe
        self._tokenizer = tokenizer
        self._decoder = decoder
        self._store = store

    def close(self) -> None:
        """End the decoder's process."""
        self._decoder.close()

    def make(self, source: RecordSource, shard: Shard, key: str, *, units: bool) -> Part:
        """Write a part and commit it.

        Raises:
            DataError: a media root is missing or empty.
        """
        encoder = RowEncoder(
            self._recipe,
            self._tokenizer,
            source.dataset,
            source.roots,
            self._decoder,
            source.audio,
        )
        bins = (
            self._recipe.model.audio_encoder.num_mel_bins
            if self._recipe.data.audio.store_features
            else 0
        )
        size = _TOGETHER_WITH_WAVES if bins else _TOGETHER
        sound: set[str] = set()
        texts = shard.texts
        with _PartWriter(self._store.new_folder(key), bins) as writer:
            for start in range(0, len(shard.rows), size):
                rows = [
                    source.row_of(row, text)
                    for row, text in zip(
                        shard.rows[start : start + size],
                        texts[start : start + size],
                        strict=True,
                    )
                ]
                for row in rows:
                    source.check_roots(row, sound)
                    if isinstance(row, Row):
                        # Before encoding: a file that changes meanwhile no longer fits its stamp,
                        # and its part is made again
                        writer.media += stamps_of(row, source.roots, self._store.base)
                        if units:
                            writer.units.update(
                                pieces(
                                    row.record.texts[-1],
                                    self._recipe.model.ctc_head.vocab,
                                )
                            )
                # Such an id is the row's place: a part with one holds for these places alone
                writer.named_by_place |= any(row.id == f"row-{row.row}" for row in rows)
                writer.add(encoder.encode_all(rows))
        # After the writer has closed its files, whose digests go into the marker
        return self._store.commit(key, writer.folder, writer.info(shard.rows))


class _PartWriter:
    """Writes the files of a part."""

    def __init__(self, folder: Path, bins: int) -> None:
        self.folder = folder
        self.media: list[Stamp] = []
        self.units: set[str] = set()
        self.named_by_place = False
        self._sums: Counter[str] = Counter()
        self._lenient: Counter[str] = Counter()
        self._seconds = 0.0
        self._rejects: list[RejectedRow] = []
        self._records = 0
        self._frames = 0
        self._features = (folder / FEATURES).open("wb") if bins else None
        self._rows = pa.ipc.new_file(str(folder / ROWS), PART_SCHEMA)

    def __enter__(self) -> _PartWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.close()
        if self._features:
            self._features.close()

    def add(self, results: list[Example | Reject]) -> None:
        """Append what became of the next records."""
        examples, offsets = [], []
        for place, result in enumerate(results, self._records):
            if isinstance(result, Reject):
                self._rejects.append(
                    RejectedRow(
                        place=place, reason=result.reason, detail=result.detail, id=result.id
                    )
                )
                continue
            examples.append(result)
            offsets.append(self._frames)
            if self._features:
                for clip in result.features:
                    self._features.write(stored(clip))
                    self._frames += len(clip)
            self._sums.update(
                used=1,
                tokens=result.tokens,
                supervised=result.supervised,
                tiles=result.tiles,
                frames=result.frames,
            )
            self._lenient.update(result.lenient)
            self._seconds += result.seconds
        self._records += len(results)
        if examples:
            self._rows.write_batch(rows_batch(examples, offsets))

    def info(self, rows: Sequence[int]) -> PartInfo:
        """Return the marker. The files are closed by now."""
        return PartInfo(
            records=self._records,
            counts=Counts(**self._sums, seconds=self._seconds, lenient=dict(self._lenient)),
            rejects=self._rejects,
            units=sorted(self.units),
            media=self.media,
            places=places_digest(rows) if self.named_by_place else "",
            files=file_notes(self.folder),
        )
