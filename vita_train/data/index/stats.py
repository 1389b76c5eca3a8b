"""What a prepared corpus holds: counts and histograms, read from the lengths alone where
possible."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vita_train.data.index.corpus import Corpus, Index

TOKEN_EDGES = (0, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Lower edges of the bins of tokens."""
SECOND_EDGES = (0, 1, 5, 10, 15, 20, 25, 30, 60, 200)
"""Lower edges of the bins of seconds of audio in a record."""


@dataclass(frozen=True)
class SplitStats:
    """Figures of one split."""

    dataset: str
    split: str
    records: int
    tokens: int
    tiles: int
    hours: float
    """Of audio."""
    supervised: int
    longest: int
    """Tokens of the longest record."""
    negatives: int
    """Records with a turn that answers audio not meant for the assistant."""
    token_counts: tuple[int, ...]
    """Records by tokens; bins begin at ``TOKEN_EDGES``."""
    second_counts: tuple[int, ...]
    """Records with audio by its seconds; bins begin at ``SECOND_EDGES``."""


def split_stats(index: Index) -> SplitStats:
    """Return the figures of an opened split."""
    tokens = index.tokens
    seconds = np.asarray(index.column("seconds"), dtype=np.float64)
    return SplitStats(
        dataset=index.dataset,
        split=index.split,
        records=len(index),
        tokens=int(tokens.sum()),
        tiles=int(index.tiles.sum()),
        hours=float(seconds.sum() / 3600),
        supervised=index.total("supervised"),
        longest=int(tokens.max(initial=0)),
        negatives=sum(turn >= 0 for turn in index.column("inserted")),
        token_counts=_histogram(tokens, TOKEN_EDGES),
        second_counts=_histogram(seconds[seconds > 0], SECOND_EDGES),
    )


def corpus_stats(corpus: Corpus) -> list[SplitStats]:
    """Return the figures of every split, sorted by name."""
    return [
        split_stats(corpus.index(dataset, split))
        for dataset, splits in sorted(corpus.datasets.items())
        for split in splits
    ]


def _histogram(values: np.ndarray, edges: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(count) for count in np.histogram(values, [*edges, np.inf])[0])
