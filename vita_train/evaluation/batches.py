"""Conversations side by side, one a row, sorted by length so that little is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vita_train.data.index.sample import Sample
from vita_train.data.loading.batch import Batch
from vita_train.data.loading.collate import collate_rows

#: What a batch may hold: tokens with padding, tiles, filterbank frames with padding.
POSITIONS, TILES, FRAMES = 8192, 64, 40_000


def reply_batches(samples: Sequence[Sample]) -> Iterator[tuple[list[int], Batch]]:
    """Yield batches with the places of their rows in ``samples``. What a row yields does not depend
    on the others."""
    order = sorted(range(len(samples)), key=lambda place: (samples[place].tokens, place))
    chosen: list[int] = []
    for index in order:
        if chosen and not _fits([samples[other] for other in (*chosen, index)]):
            yield chosen, _rows([samples[other] for other in chosen])
            chosen = []
        chosen.append(index)
    if chosen:
        yield chosen, _rows([samples[index] for index in chosen])


def _rows(samples: Sequence[Sample]) -> Batch:
    # Padding is no document: it is neither attended nor supervised, so any id will do.
    return collate_rows([[sample] for sample in samples], pad_id=0, seq_len=POSITIONS)


def _fits(samples: Sequence[Sample]) -> bool:
    longest = max((frames for sample in samples for frames in sample.audio_frames), default=0)
    return (
        len(samples) * max(sample.tokens for sample in samples) <= POSITIONS
        and sum(sample.tiles for sample in samples) <= TILES
        and sum(len(sample.audios) for sample in samples) * longest <= FRAMES
    )
