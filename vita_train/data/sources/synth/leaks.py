"""Check, on the written files, that nothing a test asks for stands in training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vita_train.data.sources.reading import Reject, read_records
from vita_train.data.sources.records import Record, split_placeholders
from vita_train.data.sources.registry import Registry, SplitSource, resolve
from vita_train.data.sources.synth.sentences import spoken
from vita_train.data.sources.synth.splits import TRAIN

#: What the media show and say, beside the registry: one JSON object a line.
FACTS = "facts.jsonl"
_UNSEEN, _NEW_VOICES = "test_unseen", "test_voices"
#: Wordings of questions are few and shared with training; what is held out is a question with its
#: scene.
_SHARED_WORDING = "speech_qa"
#: Answers of this dataset are sentences to be repeated or transcribed.
_WRITTEN_SENTENCES = "instruct"
_INSTRUCTION_WORDS = 3


@dataclass(frozen=True)
class _Clue:
    """Something that must not stand on both sides."""

    kind: str
    key: str


@dataclass
class _Sides:
    """Where each clue was first met, in training and in the held-out slices."""

    train: dict[_Clue, str] = field(default_factory=dict)
    held_out: dict[_Clue, str] = field(default_factory=dict)


def check_leaks(registry: Registry, base: Path) -> list[str]:
    """Return one line for each thing found both in training and in a dev or test slice; none means
    clean.

    Compared over all datasets are: a question together with what it is about (or a whole
    conversation that is about nothing given), bytes of media files, scenes shown, sentences spoken,
    the voices of the slice of new voices, and the colour-shape pairs of the slices of unseen
    combinations. Scenes, sentences, voices and pairs need the facts that the synthetic world writes
    beside its registry.

    Args:
        registry: what to check.
        base: path of the registry file.

    Raises:
        DataError: a record file cannot be read.
    """
    facts = _read_facts(base.parent / FACTS)
    sides = _Sides()
    unseen: list[tuple[str, frozenset[str]]] = []
    for dataset, entry in sorted(registry.datasets.items()):
        for name, source in sorted(entry.splits.items()):
            for where, record, known in _read(dataset, name, source, base, facts):
                side = sides.train if name == TRAIN else sides.held_out
                for clue in _clues(dataset, name, record, known):
                    side.setdefault(clue, where)
                if name == _UNSEEN:
                    unseen += [
                        (where, pairs_of(fact["text"])) for fact in known if "voice" not in fact
                    ]
    shown = {clue.key for clue in sides.train if clue.kind == "pair"}
    found = [
        f"{where}: shows no combination that training lacks"
        for where, pairs in unseen
        if pairs <= shown
    ]
    for clue, where in sides.held_out.items():
        if clue in sides.train and clue.kind != "pair":
            found.append(f"{where}: {clue.kind} {clue.key[:80]!r} is also in {sides.train[clue]}")
    return found


def pairs_of(text: str) -> frozenset[str]:
    """Colour-shape pairs named by captions: third and fourth word of each ``a big red circle
    ...``."""
    phrases = text.rstrip(".").replace(".\n", " and ").replace(",", " and").split(" and ")
    return frozenset(" ".join(phrase.split()[2:4]) for phrase in phrases)


def _clues(dataset: str, name: str, record: Record, known: list[dict[str, Any]]) -> Iterator[_Clue]:
    """Everything of a record that must be on one side only. ``known`` has a fact for each of its
    files, in order."""
    shown = [fact["text"] for fact in known if "voice" not in fact]
    for fact in known:
        yield _Clue("media", fact["digest"])
        if fact.get("voice") and name in (TRAIN, _NEW_VOICES):
            yield _Clue("voice", fact["voice"])
        if fact.get("voice") and (name == TRAIN or dataset != _SHARED_WORDING):
            yield _Clue("sentence", fact["text"])
    if shown:
        yield _Clue("scene", "\n".join(shown))
        yield from (_Clue("pair", pair) for text in shown for pair in sorted(pairs_of(text)))
    if dataset == _WRITTEN_SENTENCES:
        yield from (_Clue("sentence", sentence) for sentence in _echoed(record))
    yield from (_Clue("question", key) for key in _questions(record, known))


def _echoed(record: Record) -> Iterator[str]:
    """Sentences the user gives to be repeated or transcribed: the answer is all of the turn but the
    instruction."""
    for human, answer in zip(record.conversations[::2], record.conversations[1::2], strict=True):
        given, sentence = spoken(human.value), spoken(answer.value)
        if sentence in given and len(given.split()) - len(sentence.split()) <= _INSTRUCTION_WORDS:
            yield sentence


def _questions(record: Record, known: list[dict[str, Any]]) -> Iterator[str]:
    """Each question with its context, media written out as what they show and say."""
    visual = iter([fact["text"] for fact in known if "voice" not in fact])
    heard = iter([fact["text"] for fact in known if "voice" in fact])
    turns = []
    for turn in record.conversations[::2]:
        parts = split_placeholders(turn.value)
        parts[1::2] = [next(heard if kind == "audio" else visual) for kind in parts[1::2]]
        turns.append("".join(parts))
    context, _, first = turns[0].rpartition("\n")
    if not context:
        yield " / ".join(spoken(turn) or turn for turn in turns)
        return
    for question in (first, *turns[1:]):
        yield f"{spoken(context) or context} / {spoken(question) or question}"


def _read(
    dataset: str, name: str, source: SplitSource, base: Path, facts: dict[str, dict[str, Any]]
) -> Iterator[tuple[str, Record, list[dict[str, Any]]]]:
    """Yield the place, the record and what is known of its files (visual ones first)."""
    roots = {key: resolve(base, root) for key, root in source.roots.items()}
    for row in read_records(resolve(base, source.records), roots):
        if isinstance(row, Reject):
            continue
        known = []
        for ref in (*row.images, *row.videos, *row.audios):
            digest = hashlib.sha256(ref.path(roots).read_bytes()).hexdigest()
            fact = facts.get(ref.name, {})
            # Audio without words and files nothing is known of stand for themselves.
            text = fact.get("text") or digest
            voice = {"voice": fact.get("voice", "")} if ref in row.audios else {}
            known.append({"digest": digest, "text": text, **voice})
        yield f"{dataset}.{name} {row.id}", row.record, known


def _read_facts(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    return {
        fact["file"]: fact
        for fact in map(json.loads, path.read_text(encoding="utf-8").splitlines())
    }
