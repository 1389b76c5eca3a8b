"""Typed questions turned into spoken ones, for stage 2.2: by a synthesiser that the user names, and
judged by a recogniser if one is given."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile

from vita_train.console import say as say_line
from vita_train.data.media.audio import resampled
from vita_train.data.prepare.ledger import reject_line
from vita_train.data.sources.reading import Reject, Row
from vita_train.data.sources.records import Record, split_placeholders
from vita_train.data.sources.registry import Dataset, Registry, SplitSource
from vita_train.data.sources.source import RecordSource
from vita_train.errors import DataError, UserError
from vita_train.recipe.yaml_tree import dump_yaml
from vita_train.storage.whole_file import whole_file

RATE = 16000
#: Files of a folder.
_PER_FOLDER = 1000


class Synthesiser(Protocol):
    """What a user names: speaks a text."""

    def __call__(self, text: str, *, voice: str, speed: float) -> tuple[np.ndarray, int]:
        """Return the samples (n,) as floats in [-1, 1] or 16-bit integers, and their rate."""
        ...


#: What a recogniser makes of waves (n,) at `RATE`: a text each, and the share of words it got wrong
#: of the true texts.
Judge = Callable[[Sequence[np.ndarray], Sequence[str]], list[float]]


@dataclass(frozen=True)
class SpeakSettings:
    """How questions are spoken."""

    voices: tuple[str, ...] = ("",)
    """Each record takes one, chosen by its id."""
    speeds: tuple[float, ...] = (1.0,)
    """Each question takes one; 1 is the synthesiser's usual speed."""
    max_seconds: float = 30.0
    max_error: float = 0.2
    """Share of words that the recogniser may get wrong; a question it understands worse rejects
    its record."""
    seed: int = 0


@dataclass
class Spoken:
    """What came of it: in = written + rejected."""

    records: int = 0
    questions: int = 0
    seconds: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)


class _UnspeakableError(Exception):
    """A record cannot be spoken; the reason, and what is wrong."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def speak_records(
    source: RecordSource,
    out: Path,
    say: Synthesiser,
    settings: SpeakSettings,
    judge: Judge | None = None,
) -> Spoken:
    """Write records whose typed questions are recordings, with a registry and the rejects.

    Pictures and answers stay. Voice and speed follow from seed and id alone.

    Args:
        source: the typed records.
        out: folder that is not there yet, or empty.
        say: the synthesiser.
        settings: voices, speeds and limits.
        judge: looks at each question; nothing is checked without it.

    Raises:
        UserError: ``out`` holds something.
        DataError: the record file cannot be read, or no record can be spoken.
    """
    if out.exists() and any(out.iterdir()):
        raise UserError(
            "is not empty", code="VT-USE-231", where=str(out), remedy="give another --out"
        )
    (out / "speech").mkdir(parents=True, exist_ok=True)
    found = Spoken()
    with (
        whole_file(out / "records.jsonl") as records,
        whole_file(out / "rejects.jsonl") as rejects,
    ):
        for number, row in enumerate(source.rows(), 1):
            if number % _PER_FOLDER == 0:
                say_line(f"speak: {number} records")
            result = row if isinstance(row, Reject) else _spoken(row, out, say, settings, judge)
            if isinstance(result, Reject):
                found.reasons[result.reason] += 1
                rejects.write(reject_line(source.dataset, source.split, result))
                continue
            record, waves = result
            found.records += 1
            found.questions += len(waves)
            found.seconds += sum(map(len, waves)) / RATE
            records.write(json.dumps(record, ensure_ascii=False) + "\n")
    if not found.records:
        raise DataError(
            f"no record can be spoken: {dict(found.reasons)}",
            code="VT-DATA-084",
            where=str(source.path),
            remedy=f"look at {out / 'rejects.jsonl'}",
        )
    roots = {key: str(root.absolute()) for key, root in source.roots.items() if key != "audio"}
    split = SplitSource(records="records.jsonl", roots={**roots, "audio": "speech"})
    registry = Registry(
        datasets={source.dataset: Dataset(task="speech_qa", splits={source.split: split})}
    )
    with whole_file(out / "registry.yaml") as stream:
        stream.write(dump_yaml(registry.model_dump(mode="json", exclude_defaults=True)))
    return found


def _spoken(
    row: Row, out: Path, say: Synthesiser, settings: SpeakSettings, judge: Judge | None
) -> tuple[dict[str, Any], list[np.ndarray]] | Reject:
    try:
        turns, texts = _questions(row.record)
        voice = settings.voices[_draw(settings.seed, row.id, "voice") % len(settings.voices)]
        waves = [
            _wave(
                say,
                text,
                voice,
                settings.speeds[_draw(settings.seed, row.id, place) % len(settings.speeds)],
                settings.max_seconds,
            )
            for place, text in enumerate(texts)
        ]
        if judge is not None:
            worst = max(judge(waves, texts))
            if worst > settings.max_error:
                raise _UnspeakableError(
                    "not understood", f"{worst:.0%} of the words of a question are heard wrong"
                )
    except _UnspeakableError as error:
        return Reject(row.row, error.reason, str(error), row.id)
    names = []
    for place, wave in enumerate(waves):
        name = f"{row.row // _PER_FOLDER:06d}/{row.row:09d}-{place}.flac"
        (out / "speech" / name).parent.mkdir(exist_ok=True)
        soundfile.write(out / "speech" / name, wave, RATE, format="FLAC", subtype="PCM_16")
        names.append(name)
    record = row.record.model_dump(by_alias=True, exclude_defaults=True)
    return {**record, "id": row.id, "conversations": turns, "audio": names}, waves


def _questions(record: Record) -> tuple[list[dict[str, str]], list[str]]:
    """Return the turns with a placeholder for what is typed in human ones, and what is typed."""
    if record.audios:
        raise _UnspeakableError("speech already", "has recordings")
    turns, texts = [], []
    for turn in record.conversations:
        value = turn.value
        if turn.role == "human":
            parts = split_placeholders(value)
            text = " ".join(" ".join(parts[::2]).split())
            if not text:
                raise _UnspeakableError("nothing to say", "a question has no text")
            texts.append(text)
            value = "\n".join([*(f"<{kind}>" for kind in parts[1::2]), "<audio>"])
        turns.append({"from": turn.role, "value": value})
    return turns, texts


def _wave(say: Synthesiser, text: str, voice: str, speed: float, max_seconds: float) -> np.ndarray:
    """Return what the synthesiser says, (n,) float32 at `RATE`."""
    try:
        samples, rate = say(text, voice=voice, speed=speed)
        wave = np.asarray(samples)
        if wave.dtype == np.int16:
            wave = wave / 32768
        wave = resampled(wave.astype(np.float32), int(rate), RATE)
    except UserError:
        raise
    except Exception as error:  # it is the user's, and one text must not end the whole
        raise _UnspeakableError("synthesiser failed", f"{type(error).__name__}: {error}") from error
    if wave.ndim != 1 or not len(wave) or not np.isfinite(wave).all():
        raise _UnspeakableError("no sound", f"shape {wave.shape} for {text[:80]!r}")
    if float(np.abs(wave).max()) < 1e-4:
        raise _UnspeakableError("no sound", f"silence for {text[:80]!r}")
    if len(wave) > max_seconds * RATE:
        raise _UnspeakableError("too long", f"{len(wave) / RATE:.1f} s for {text[:80]!r}")
    return wave.clip(-1, 1).astype(np.float32)


def _draw(seed: int, name: str, what: object) -> int:
    return zlib.crc32(f"{seed}/{name}/{what}".encode())
