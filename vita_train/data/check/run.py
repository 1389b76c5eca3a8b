"""Everything that can be wrong with records and their media, found without writing a corpus."""

from __future__ import annotations

import hashlib
import heapq
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vita_train.console import say
from vita_train.data.check.examine import Examined, Examiner
from vita_train.data.check.likeness import Repeat, Seen
from vita_train.data.check.text import TEXT_FINDINGS, text_findings
from vita_train.data.media.details import Details
from vita_train.data.prepare.inputs import check_datasets, unmeasured, with_registry
from vita_train.data.prepare.ledger import Counting, PrepareLedger
from vita_train.data.prepare.row_encoder import Example
from vita_train.data.prepare.run import Say
from vita_train.data.prepare.tokenizer_apart import save_tokenizer
from vita_train.data.sources.reading import Reject, Row
from vita_train.data.sources.registry import load_registry
from vita_train.data.sources.source import RecordSource, open_splits
from vita_train.data.sources.splitting import TRAIN
from vita_train.recipe.data import AudioSpec
from vita_train.recipe.schema import Recipe

#: Name of a finding to what it means. Findings do not reject a record.
FINDINGS = {
    "duplicate id": "an earlier record of the split has the same id",
    "duplicate record": "an earlier record of the split has the same turns and media",
    "duplicate media": "an earlier record of the split has a file of the same bytes",
    "near-duplicate image": "an earlier record of the split has an image that looks the same",
    "leak: record": "a record of the same turns and media is in another split",
    "leak: media": "a file of the same bytes is in another split",
    "leak: near-duplicate image": "an image that looks the same is in another split",
    **TEXT_FINDINGS,
}
#: Rejects that are kept in memory; the rejects file has all.
_KEPT = 10_000
_EXAMPLES = 4
_SAMPLES = 8
_PROGRESS_ROWS = 5000


@dataclass
class Shown:
    """A record as the page shows it."""

    dataset: str
    split: str
    row: Row | Reject
    detail: str
    """Why it is shown."""


@dataclass
class MediaFacts:
    """What was measured of the media of one kind."""

    files: int = 0
    seconds: float = 0.0
    longest: float = 0.0
    shortest: float = 0.0
    sizes: Counter[str] = field(default_factory=Counter)
    """Of images and videos, by their longer side in steps."""
    rates: Counter[str] = field(default_factory=Counter)
    """Of audio: samples a second and channels."""


@dataclass
class CheckReport:
    """What a check found."""

    ledger: PrepareLedger
    rejects: list[tuple[str, str, Reject]] = field(default_factory=list)
    """Dataset, split and reject of rows that cannot be used, the first ten thousand."""
    faults: list[str] = field(default_factory=list)
    """Why the data are turned down; empty if they are not."""
    findings: dict[str, Counter[str]] = field(default_factory=dict)
    """Split (``dataset/split``) to how often what was found in it."""
    examples: dict[str, list[Shown]] = field(default_factory=dict)
    """Reason or finding to a few records with it."""
    samples: list[Shown] = field(default_factory=list)
    """Some records that can be used, the same at each run."""
    media: dict[str, MediaFacts] = field(default_factory=dict)
    """Kind to what was measured."""
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the data are accepted."""
        return not self.faults

    @property
    def reasons(self) -> Counter[str]:
        """Rejects of all splits by reason."""
        total: Counter[str] = Counter()
        for split in self.ledger.splits:
            total.update(split.reasons)
        return total

    @property
    def found(self) -> Counter[str]:
        """Findings of all splits by name."""
        return sum(self.findings.values(), Counter())


@dataclass(frozen=True)
class CheckSettings:
    """What is looked at, and what is too much."""

    max_rejects: float = 0
    """A number of records, or below 1 a share of each split."""
    fail_on: tuple[str, ...] = ()
    """Findings that turn the data down."""
    media: bool = True
    """Decode every file."""
    audio: AudioSpec | None = None
    """Limits of audio where there is no recipe."""


OnReject = Callable[[str, str, Reject], None]


def check(
    registry_path: Path,
    recipe: Recipe,
    *,
    workers: int = 1,
    progress: Say = say,
    on_reject: OnReject | None = None,
    fail_on: tuple[str, ...] = (),
) -> CheckReport:
    """Read every record, decode its media and measure its length, as :func:`prepare` does.

    Raises:
        DataError: registry or record file cannot be read, or a media root is missing or empty.
        RecipeError: the tokenizer does not fit the recipe.
    """
    registry_path = registry_path.resolve()
    registry = load_registry(registry_path)
    check_datasets(recipe, registry, registry_path)
    recipe = with_registry(recipe, registry)
    audio = recipe.data.audio.model_copy(update={"store_features": False})
    unstored = recipe.model_copy(update={"data": recipe.data.model_copy(update={"audio": audio})})
    settings = CheckSettings(fail_on=fail_on)
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = Path(scratch) / "tokenizer"
        save_tokenizer(recipe, registry, registry_path, tokenizer)
        with Examiner(unstored, tokenizer, workers=workers) as examiner:
            report = _scan(
                open_splits(registry_path, registry),
                examiner,
                settings,
                progress,
                on_reject,
                recipe.data.max_reject_share,
            )
    report.notes += unmeasured(recipe, registry)
    return report


def check_sources(
    sources: Sequence[RecordSource],
    settings: CheckSettings,
    *,
    workers: int = 1,
    progress: Say = say,
    on_reject: OnReject | None = None,
) -> CheckReport:
    """Check records and media without a recipe: everything but lengths in tokens.

    Raises:
        DataError: a record file cannot be read, or a media root is missing or empty.
    """
    with Examiner(workers=workers, audio=settings.audio, media=settings.media) as examiner:
        return _scan(sources, examiner, settings, progress, on_reject, None)


class _Scan:
    """What is gathered over all splits."""

    def __init__(self, on_reject: OnReject | None) -> None:
        self.report = CheckReport(PrepareLedger())
        self._on_reject = on_reject
        self.ids, self.records, self.files, self.images = Seen(), Seen(), Seen(), Seen()
        self._samples: list[tuple[int, int, int, Shown]] = []

    def add(self, source: RecordSource, number: int, found: Examined) -> None:
        """Take up a row of the split at place ``number``."""
        row, reject = found.row, found.reject
        if reject is not None:
            if self._on_reject:
                self._on_reject(source.dataset, source.split, reject)
            if len(self.report.rejects) < _KEPT:
                self.report.rejects.append((source.dataset, source.split, reject))
            self.example(reject.reason, source, row, reject.detail)
            return
        assert isinstance(row, Row)
        turns = row.record.texts
        for name in text_findings(turns):
            self.finding(name, source, row, FINDINGS[name])
        media = [[str(ref) for ref in refs] for refs in (row.images, row.videos, row.audios)]
        content = [turns, media, row.record.start, row.record.end]
        if row.record.id is not None:
            self.ids.add(row.id, number, row.row)
        self.records.add(json.dumps(content), number, row.row)
        for kind, facts in found.media:
            self.files.add_key(int(facts.sha256[:16], 16), number, row.row)
            if kind == "image" and facts.dhash:
                self.images.add_key(facts.dhash, number, row.row)
            _count_media(self.report.media.setdefault(kind, MediaFacts()), kind, facts)
        self._sample(source, number, row)

    def finding(self, name: str, source: RecordSource, row: Row | None, detail: str) -> None:
        """Count a finding."""
        place = f"{source.dataset}/{source.split}"
        self.report.findings.setdefault(place, Counter())[name] += 1
        if row is not None:
            self.example(name, source, row, detail)

    def example(self, name: str, source: RecordSource, row: Row | Reject, detail: str) -> None:
        """Keep a record for the page, if there are few of its kind."""
        shown = self.report.examples.setdefault(name, [])
        if len(shown) < _EXAMPLES:
            shown.append(Shown(source.dataset, source.split, row, detail))

    def _sample(self, source: RecordSource, number: int, row: Row) -> None:
        name = f"{source.dataset}/{source.split}/{row.row}".encode()
        key = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big")
        entry = (-key, number, row.row, Shown(source.dataset, source.split, row, ""))
        if len(self._samples) < _SAMPLES:
            heapq.heappush(self._samples, entry)
        elif entry > self._samples[0]:
            heapq.heapreplace(self._samples, entry)

    def close(self, sources: Sequence[RecordSource]) -> CheckReport:
        """Find what occurs more than once, and return the report."""
        self.report.samples = [entry[3] for entry in sorted(self._samples, reverse=True)]
        for seen, name, leak in (
            (self.ids, "duplicate id", ""),
            (self.records, "duplicate record", "leak: record"),
            (self.files, "duplicate media", "leak: media"),
        ):
            for repeat in seen.repeats():
                self._repeat(repeat, name, leak, sources)
        for repeat in self.images.near():
            self._repeat(repeat, "near-duplicate image", "leak: near-duplicate image", sources)
        return self.report

    def _repeat(
        self, repeat: Repeat, name: str, leak: str, sources: Sequence[RecordSource]
    ) -> None:
        here, first = sources[repeat.source], sources[repeat.first_source]
        detail = f"as row {repeat.first_row} of {first.dataset}/{first.split}"
        found = name if here is first else ""
        if here.split != first.split and TRAIN in (here.split, first.split):
            found = leak
        if found:
            self.finding(found, here, None, detail)
            self.example(found, here, Reject(repeat.row, found, detail), detail)


def _scan(
    sources: Sequence[RecordSource],
    examiner: Examiner,
    settings: CheckSettings,
    progress: Say,
    on_reject: OnReject | None,
    share: float | None,
) -> CheckReport:
    scan = _Scan(on_reject)
    report = scan.report
    rejected = 0
    for number, source in enumerate(sources):
        counting = Counting(source.dataset, source.split)
        place = f"{source.dataset}/{source.split}"
        for count, found in enumerate(examiner.split(source), 1):
            scan.add(source, number, found)
            counting.add(found.result or _counted(found))
            if count % _PROGRESS_ROWS == 0:
                progress(f"check: {place} {count} rows")
        counted = counting.close()
        report.ledger.splits.append(counted)
        rejected += counted.rejected
        allowed = share if share is not None else settings.max_rejects
        fault = counting.fault(allowed if allowed < 1 or share is not None else 1.0)
        report.faults += [fault] if fault else []
        progress(f"check: {place} {counted.used} rows, {counted.rejected} rejected")
    if share is None and settings.max_rejects >= 1 and rejected > settings.max_rejects:
        report.faults.append(f"{rejected} records rejected, {settings.max_rejects:g} are allowed")
    scan.close(sources)
    report.faults += [
        f"{name}: {count}"
        for name, count in sorted(report.found.items())
        if name in settings.fail_on
    ]
    return report


def _counted(found: Examined) -> Example:
    """A good row as the ledger counts it where no recipe says how long it is."""
    row = found.row
    assert isinstance(row, Row)
    return Example(
        row=row.row,
        id=row.id,
        ids=[],
        spans=[],
        runs=[],
        tokens=0,
        tiles=0,
        frames=0,
        supervised=0,
        images=[],
        image_tiles=[],
        videos=[],
        video_frame_indices=[],
        audios=[],
        audio_frames=[],
        media_digests=[],
        seconds=sum(facts.seconds for kind, facts in found.media if kind == "audio"),
        turns=[],
        inserted=-1,
        lenient=row.lenient,
    )


def _count_media(total: MediaFacts, kind: str, facts: Details) -> None:
    total.files += 1
    if kind != "image":
        total.seconds += facts.seconds
        total.longest = max(total.longest, facts.seconds)
        total.shortest = min(total.shortest or facts.seconds, facts.seconds)
    if kind == "audio":
        total.rates[f"{facts.rate} Hz, {facts.channels} ch"] += 1
    else:
        side = max(facts.width, facts.height)
        step = next((step for step in (224, 448, 896, 1792, 3584) if side <= step), 0)
        total.sizes[f"up to {step}" if step else "over 3584"] += 1
