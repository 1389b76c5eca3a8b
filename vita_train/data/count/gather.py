"""Records, turns, tokens, tiles, seconds and scripts of record files, registries and prepared
corpora, counted in one pass: memory does not depend on the number of records."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from vita_train.console import say
from vita_train.data.check.examine import Examined, Examiner
from vita_train.data.count.scripts import count_scripts, main_script
from vita_train.data.index.corpus import Corpus, Index
from vita_train.data.index.stats import SECOND_EDGES, TOKEN_EDGES
from vita_train.data.prepare.row_encoder import Example
from vita_train.data.sources.reading import MediaRef, Reject, Row
from vita_train.data.sources.records import split_placeholders
from vita_train.data.sources.source import RecordSource

TURN_EDGES = (0, 3, 5, 9, 17, 33, 65)
"""Lower edges of the bins of turns, questions and answers counted."""
_PROGRESS = 50_000


@dataclass
class Histogram:
    """Records by a number; bins begin at ``edges``."""

    edges: tuple[int, ...]
    counts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * len(self.edges)

    def add(self, value: float) -> None:
        """Count a record."""
        self.counts[bisect_right(self.edges, value) - 1] += 1

    @property
    def bars(self) -> list[tuple[str, int]]:
        """Name and count of each bin, those at the end without any left out."""
        ends = [*(edge for edge in self.edges[1:]), None]
        bars = [
            (f"{low}-{high}" if high is not None else f"over {low}", count)
            for low, high, count in zip(self.edges, ends, self.counts, strict=True)
        ]
        while bars and not bars[-1][1]:
            bars.pop()
        return bars


@dataclass
class SplitCounts:
    """Counts of one split, before or after preparation."""

    dataset: str
    split: str
    state: Literal["records", "prepared"]
    ratio: float = 1.0
    """What the registry multiplies the weight of a stage by."""
    measured: bool = False
    """Whether tokens, tiles and seconds are known."""
    records: int = 0
    rejected: int = 0
    turns: int = 0
    images: int = 0
    videos: int = 0
    audios: int = 0
    negatives: int = 0
    """Records with a turn that answers audio not meant for the assistant."""
    tokens: int = 0
    """Media included."""
    supervised: int = 0
    tiles: int = 0
    seconds: float = 0.0
    """Of audio."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Rejected records by reason."""
    modalities: Counter[str] = field(default_factory=Counter)
    """Records by the kinds of media in them."""
    sets: Counter[str] = field(default_factory=Counter)
    """Images and videos by the key of their root."""
    scripts: Counter[str] = field(default_factory=Counter)
    """Records by the script that most letters of their turns are of."""
    by_turns: Histogram = field(default_factory=lambda: Histogram(TURN_EDGES))
    by_tokens: Histogram = field(default_factory=lambda: Histogram(TOKEN_EDGES))
    by_seconds: Histogram = field(default_factory=lambda: Histogram(SECOND_EDGES))
    """Records with audio."""

    @property
    def name(self) -> str:
        """Dataset and split."""
        return f"{self.dataset}/{self.split}"

    def take(
        self, turns: Sequence[str], media: dict[str, Sequence[str]], *, negative: bool
    ) -> None:
        """Count what a record has: texts of its turns, and the files of each kind with the keys of
        their roots before a colon."""
        self.records += 1
        self.turns += len(turns)
        self.by_turns.add(len(turns))
        self.negatives += negative
        kinds = [kind for kind, files in media.items() if files]
        self.modalities["+".join(kinds) or "text"] += 1
        self.images += len(media["image"])
        self.videos += len(media["video"])
        self.audios += len(media["audio"])
        for file in (*media["image"], *media["video"]):
            self.sets[file.partition(":")[0]] += 1
        letters: Counter[str] = Counter()
        for number, turn in enumerate(turns):
            texts = [turn] if number % 2 else split_placeholders(turn)[::2]
            for text in texts:
                letters += count_scripts(text)
        self.scripts[main_script(letters)] += 1

    def measure(self, tokens: int, tiles: int, seconds: float, supervised: int) -> None:
        """Count how long a record is."""
        self.tokens += tokens
        self.tiles += tiles
        self.seconds += seconds
        self.supervised += supervised
        self.by_tokens.add(tokens)
        if seconds > 0:
            self.by_seconds.add(seconds)


def count_source(
    source: RecordSource, examiner: Examiner | None = None, *, ratio: float = 1.0
) -> SplitCounts:
    """Count a split as its record file has it.

    Args:
        source: the split.
        examiner: measures tokens, tiles and seconds, and rejects records whose media cannot be
            used; without one no media file is opened and no length known.
        ratio: of the dataset in its registry.

    Raises:
        DataError: the file cannot be read, or a media root is missing or empty.
    """
    counts = SplitCounts(
        source.dataset, source.split, "records", ratio, measured=examiner is not None
    )
    found: Iterable[Examined | Row | Reject]
    found = source.rows() if examiner is None else examiner.split(source)
    for number, each in enumerate(found, 1):
        if number % _PROGRESS == 0:
            say(f"count: {counts.name} {number} records")
        row = each.row if isinstance(each, Examined) else each
        result = each.result if isinstance(each, Examined) else None
        if reject := next((one for one in (result, row) if isinstance(one, Reject)), None):
            counts.rejected += 1
            counts.reasons[reject.reason] += 1
            continue
        assert isinstance(row, Row)
        counts.take(
            row.record.texts,
            {
                "image": [str(ref) for ref in row.images],
                "video": [str(ref) for ref in row.videos],
                "audio": [str(ref) for ref in row.audios],
            },
            negative=row.record.inserted_id is not None,
        )
        if isinstance(result, Example):
            counts.measure(result.tokens, result.tiles, result.seconds, result.supervised)
    return counts


def count_corpus(corpus: Corpus) -> list[SplitCounts]:
    """Count every split of a prepared corpus, sorted by name.

    Raises:
        DataError: the corpus cannot be read.
    """
    return [
        _count_index(corpus.index(dataset, split), corpus.ratios.get(dataset, 1.0))
        for dataset, splits in sorted(corpus.datasets.items())
        for split in sorted(splits)
    ]


def _count_index(index: Index, ratio: float) -> SplitCounts:
    counts = SplitCounts(index.dataset, index.split, "prepared", ratio, measured=True)
    columns = ("turns", "images", "videos", "audios", "inserted", "seconds", "supervised")
    row = 0
    for piece in index.pieces(*columns):
        lengths = index.lengths[row : row + len(piece[0])].tolist()
        row += len(piece[0])
        for (tokens, tiles, _), turns, images, videos, audios, inserted, seconds, supervised in zip(
            lengths, *piece, strict=True
        ):
            recordings = [ref for ref in audios if (MediaRef.parse(ref).cut or (0,))[0] == 0]
            media = {"image": images, "video": videos, "audio": recordings}
            counts.take(turns, media, negative=inserted >= 0)
            counts.measure(tokens, tiles, seconds, supervised)
    return counts
