"""How many bytes preparation will store as features of audio, from a look at the first records."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

from vita_train.recipe.schema import Recipe

if TYPE_CHECKING:
    from vita_train.data.media.apart import Decoder
    from vita_train.data.sources.source import RecordSource

#: Records of a file that are read; the rest is taken to be like them.
_RECORDS = 2000
#: Recordings of a file whose length is looked up.
_RECORDINGS = 12
#: Bytes of a stored value: features are float16.
_VALUE_BYTES = 2


def feature_bytes(recipe: Recipe, splits: Iterable[RecordSource]) -> int:
    """Return about how many bytes the stored features of these splits take: frames times mel bins
    times two.

    A compressed record file is taken for as small as it lies there, so that its share is too low.

    Raises:
        DataError: a record file cannot be read.
        VitaError: no process that decodes can be started.
    """
    if not recipe.data.audio.store_features:
        return 0
    from vita_train.data.media.apart import Decoder
    from vita_train.data.media.measure import MeasureSettings

    settings = MeasureSettings(
        recipe.data, recipe.model.vision.tile_size, recipe.model.audio_adapter
    )
    # What is split off a file lies in it too.
    files = {split.path: split for split in splits}
    with Decoder(settings) as decoder:
        frames = sum(
            _frames(split, decoder, recipe.data.audio.sample_rate) for split in files.values()
        )
    return round(frames * recipe.model.audio_encoder.num_mel_bins * _VALUE_BYTES)


def _frames(split: RecordSource, decoder: Decoder, rate: int) -> float:
    """Return about how many filterbank frames the recordings of a record file have."""
    from vita_train.data.media import MediaError
    from vita_train.data.media.audio import frames_of
    from vita_train.data.media.measure import MediaFile
    from vita_train.data.sources.reading import MediaRef, Row, value_to_row
    from vita_train.data.sources.texts import read_values

    size, count, recordings = 0, 0, list[MediaRef]()
    for number, value in enumerate(islice(read_values(split.path), _RECORDS + 1)):
        if number == _RECORDS:
            break
        size += len(json.dumps(value, ensure_ascii=False, default=str).encode(errors="replace"))
        row = value_to_row(number, value, split.roots, split.rules)
        if isinstance(row, Row):
            count += len(row.audios)
            recordings += row.audios[: _RECORDINGS - len(recordings)]
    else:
        size = split.path.stat().st_size  # these were all
    lengths = []
    for recording in recordings:
        try:
            samples = decoder.measure(MediaFile("audio", recording.path(split.roots))).samples
            lengths.append(frames_of(samples, rate))
        except MediaError:
            continue  # preparation will say so
    if not lengths:
        return 0
    return sum(lengths) / len(lengths) * count * max(1, split.path.stat().st_size / max(size, 1))
