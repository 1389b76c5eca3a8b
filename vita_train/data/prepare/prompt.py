"""Conversations to token ids and labels, by construction: nothing is searched for afterwards.

Media stay compact: one IMAGE_ID or AUDIO_ID stands for a whole image, video or clip, and ``runs``
tells how many tokens it fills. :func:`expand` writes them out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeAlias

import numpy as np

from vita_train.data.prepare.states import STATE_CLASSES, State, mark_ids, state_of
from vita_train.data.prepare.tokenizer import Tokenizer, control_id, plain_ids
from vita_train.data.sources.records import Record, literal, split_placeholders
from vita_train.data.templates import Piece, Template
from vita_train.recipe.data import StateMode
from vita_train.recipe.special_ids import AUDIO_ID, IGNORE_INDEX, IMAGE_ID


@dataclass(frozen=True)
class MediaCounts:
    """Tokens of each media file, in the order of the placeholders of its kind."""

    images: tuple[int, ...] = ()
    """Of all tiles of an image (``recipe.visual.image_tokens``)."""
    videos: tuple[int, ...] = ()
    """Of all tiles of a video (``recipe.visual.video_tokens``)."""
    audios: tuple[int | tuple[int, ...], ...] = ()
    """Of a clip; of a recording that is cut into several, of each."""


@dataclass
class EncodedSample:
    """Ids with compact media, and which of them are supervised."""

    ids: list[int] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    """Supervised stretches of ``ids``: first, one past the last."""
    runs: list[int] = field(default_factory=list)
    """Tokens of each media id, in order."""
    states: list[tuple[int, int]] = field(default_factory=list)
    """For the state head: the place of each clip in ``ids``, and its class."""

    @property
    def labels(self) -> list[int]:
        """Labels of the compact ids."""
        return labels_of(self.ids, self.spans)

    @property
    def tokens(self) -> int:
        """Tokens after expansion."""
        return len(self.ids) + sum(self.runs) - len(self.runs)

    @property
    def supervised(self) -> int:
        """Supervised positions."""
        return sum(end - start for start, end in self.spans)


@dataclass
class Draft:
    """A conversation whose texts are still to become ids, so that those of many are encoded at
    once."""

    parts: list[str | int] = field(default_factory=list)
    """Texts, and ids of control tokens, state marks and media."""
    texts: list[str] = field(default_factory=list)
    """The texts among them."""
    spans: list[tuple[int, int]] = field(default_factory=list)
    """Supervised stretches of ``parts``: first, one past the last."""
    runs: list[int] = field(default_factory=list)
    """Tokens of each media id, in order."""
    states: list[tuple[int, int]] = field(default_factory=list)
    """For the state head: the place of each clip in ``parts``, and its class."""
    is_document: bool = False

    def encoded(self, ids_of: Callable[[str], Sequence[int]]) -> EncodedSample:
        """Return the sample, with ``ids_of`` each text."""
        ids: list[int] = []
        starts = []
        for part in self.parts:
            starts.append(len(ids))
            if isinstance(part, str):
                ids.extend(ids_of(part))
            else:
                ids.append(part)
        starts.append(len(ids))
        return EncodedSample(
            ids,
            # Nothing stands before the first token of a document that it could be predicted from.
            [(max(int(self.is_document), starts[first]), starts[end]) for first, end in self.spans],
            self.runs,
            [(starts[place], state) for place, state in self.states],
        )


def encode(
    record: Record,
    template: Template,
    tokenizer: Tokenizer,
    media: MediaCounts,
    *,
    state_mode: StateMode = "glyph",
) -> EncodedSample:
    """Write a record as ids; supervised are, of each reply, state mark, answer and end token, and
    of a document all its text and its end token.

    Raises:
        RecipeError: as of `draft`.
    """
    drafted = draft(record, template, tokenizer, media, state_mode=state_mode)
    return drafted.encoded(partial(plain_ids, tokenizer))


def draft(
    record: Record,
    template: Template,
    tokenizer: Tokenizer,
    media: MediaCounts,
    *,
    state_mode: StateMode = "glyph",
) -> Draft:
    """Lay a record out as `encode` writes it.

    With ``end_tag`` false the end token of the last reply is left out, and everything after it. In
    the mode ``head`` no mark is written; each clip gets a class instead.

    Raises:
        RecipeError: the tokenizer lacks a control token of the template or a state mark.
    """
    writer = _Writer(template, tokenizer, media, state_mode)
    if record.document is not None:
        writer.draft.is_document = True
        for text in record.texts:
            writer.document(text)
        return writer.draft
    values = [turn.value for turn in record.conversations]
    writer.system(_modality(media))
    last = len(values) - 1
    for index in range(0, len(values), 2):
        clips = writer.human(values[index])
        state = state_of(bool(clips), negative=record.inserted_id == index + 1)
        if state_mode == "head":
            writer.draft.states += [(clip, STATE_CLASSES[state]) for clip in clips]
        ended = record.end_tag or index + 1 < last
        writer.reply(values[index + 1], state, ended=ended, more=index + 1 < last)
    return writer.draft


def encode_prompt(
    turns: Sequence[str],
    template: Template,
    tokenizer: Tokenizer,
    media: MediaCounts,
    *,
    state_mode: StateMode = "glyph",
) -> EncodedSample:
    """Write a conversation up to the open header of the next reply, for generation.

    Args:
        turns: texts of human, gpt, human, ... turns; the last is human. Replies carry no state
            mark: as in training, the mark of a past reply follows from the turn before it (a past
            negative turn is written as spoken).

    Raises:
        ValueError: the number of turns is even.
    """
    if len(turns) % 2 == 0:
        raise ValueError("the last turn of a prompt must be a human one")
    writer = _Writer(template, tokenizer, media, state_mode)
    writer.system(_modality(media))
    for index in range(0, len(turns), 2):
        clips = writer.human(turns[index])
        if index + 1 < len(turns):
            writer.reply(
                turns[index + 1], state_of(bool(clips), negative=False), ended=True, more=True
            )
    writer.pieces(template.layout.gpt.before)
    # Nothing of a prompt is supervised, past replies included
    writer.draft.spans.clear()
    return writer.draft.encoded(partial(plain_ids, tokenizer))


def labels_of(ids: Sequence[int], spans: Sequence[tuple[int, int]]) -> list[int]:
    """Return the labels of compact ids: the id within a supervised span, IGNORE_INDEX elsewhere."""
    labels = [IGNORE_INDEX] * len(ids)
    for start, end in spans:
        labels[start:end] = ids[start:end]
    return labels


def expand(ids: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """Repeat each media id by its run. ids (n,), runs (number of media ids,) -> (tokens,)."""
    return np.repeat(ids, _lengths(ids, runs))


def expand_labels(ids: np.ndarray, labels: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """Return labels aligned with ``expand(ids, runs)``; media are never supervised."""
    return np.repeat(labels, _lengths(ids, runs))


def expand_states(
    ids: np.ndarray, states: Sequence[tuple[int, int]], runs: np.ndarray
) -> np.ndarray:
    """Return classes aligned with ``expand(ids, runs)``: each at the last position of its clip,
    IGNORE_INDEX elsewhere.

    Args:
        states: places in ``ids`` and their classes.
    """
    # One past the last position of each compact id
    ends = _lengths(ids, runs).cumsum()
    classes = np.full(ends[-1], IGNORE_INDEX, dtype=np.int64)
    for index, state in states:
        classes[ends[index] - 1] = state
    return classes


def _lengths(ids: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """Return the tokens of each compact id."""
    lengths = np.ones(len(ids), dtype=np.int64)
    lengths[(ids == IMAGE_ID) | (ids == AUDIO_ID)] = runs
    return lengths


def control_texts(template: Template) -> list[str]:
    """Return the ordinary texts of a template's layout, which a trained tokenizer should know."""
    return [
        piece.text
        for part in template.layout.parts
        for piece in (*part.before, *part.after)
        if piece.text
    ]


def _modality(media: MediaCounts) -> Literal["image", "video", "language"]:
    if media.videos:
        return "video"
    return "image" if media.images else "language"


#: Text, or media by their kind with the tokens of each clip or file.
_Part: TypeAlias = str | tuple[str, tuple[int, ...]]


class _Writer:
    """Appends pieces to a draft; media are taken in order as placeholders come."""

    def __init__(
        self, template: Template, tokenizer: Tokenizer, media: MediaCounts, state_mode: StateMode
    ) -> None:
        self.template = template
        self.tokenizer = tokenizer
        self.draft = Draft()
        self.marks = mark_ids(tokenizer, state_mode)
        # Some templates open the first turn otherwise, behind the system's words
        self.first_human = template.layout.first_human or template.layout.human
        self.left: dict[str, Iterator[tuple[int, ...]]] = {
            kind: iter([run if isinstance(run, tuple) else (run,) for run in runs])
            for kind, runs in (
                ("image", media.images),
                ("video", media.videos),
                ("audio", media.audios),
            )
        }

    def text(self, text: str) -> None:
        if text:
            self.draft.parts.append(text)
            self.draft.texts.append(text)

    def pieces(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            if piece.token is not None:
                self.draft.parts.append(control_id(self.tokenizer, piece.token))
            else:
                self.text(piece.text or "")

    def system(self, modality: Literal["image", "video", "language"]) -> None:
        around = self.template.layout.system
        self.pieces(around.before)
        self.text(getattr(self.template.system, modality))
        self.pieces(around.after)

    def human(self, value: str) -> list[int]:
        """Write a human turn; return the places of its recordings in the draft, each of its last
        clip."""
        around, self.first_human = self.first_human, self.template.layout.human
        self.pieces(around.before)
        clips = []
        parts = self._parts(value)
        media_only = self.template.layout.media_only
        for part in (
            [part for part in parts if not isinstance(part, str)] if media_only else _arrange(parts)
        ):
            if isinstance(part, str):
                self.text(part)
                continue
            kind, runs = part
            self.media(kind, runs)
            if kind == "audio":
                clips.append(len(self.draft.parts) - 1)
        self.pieces(around.after)
        return clips

    def media(self, kind: str, runs: Sequence[int]) -> None:
        self.draft.parts += [AUDIO_ID if kind == "audio" else IMAGE_ID] * len(runs)
        self.draft.runs += runs

    def document(self, value: str) -> None:
        """Write text and images as they follow each other, all of the text supervised."""
        for part in self._parts(value):
            start = len(self.draft.parts)
            if isinstance(part, str):
                self.text(part)
                self._supervise(start)
            else:
                self.media(*part)
        start = len(self.draft.parts)
        self._end()
        self._supervise(start)

    def _supervise(self, start: int) -> None:
        """Supervise the parts from one on, as one stretch with those before it."""
        spans, end = self.draft.spans, len(self.draft.parts)
        if spans and spans[-1][1] == start:
            start = spans.pop()[0]
        if start < end:
            spans.append((start, end))

    def _end(self) -> None:
        around = self.template.layout.gpt
        self.text(around.end_text)
        if around.end:
            self.draft.parts.append(control_id(self.tokenizer, around.end))

    def reply(self, value: str, state: State, *, ended: bool, more: bool) -> None:
        around = self.template.layout.gpt
        self.pieces(around.before)
        start = len(self.draft.parts)
        self.draft.parts.extend(self.marks.get(state, ()))
        self.text(value)
        if ended:
            self._end()
        self.draft.spans.append((start, len(self.draft.parts)))
        if more:
            self.pieces(around.after)

    def _parts(self, value: str) -> list[_Part]:
        """Cut a turn at its placeholders; one without a file left is ordinary text."""
        parts: list[_Part] = [""]
        for index, piece in enumerate(split_placeholders(value)):
            # split_placeholders alternates: text at even places, kinds of placeholders at odd ones
            run = next(self.left[piece], None) if index % 2 else None
            if run is not None:
                parts += [(piece, run), ""]
            else:
                parts[-1] = f"{parts[-1]}{f'<{piece}>' if index % 2 else literal(piece)}"
        return parts


def _arrange(parts: Sequence[_Part]) -> list[_Part]:
    """Set the newlines around media: an image or video is followed by one, an audio clip by none.

    The newline that a record writes next to an image, and the one after an audio clip, are its
    formatting and dropped. Images that all stand at the very end of a turn come first; anywhere
    else they stay where they are. ``parts`` alternates text and media and begins and ends with
    text.
    """
    trimmed = list(parts)
    for index, part in enumerate(parts):
        if not isinstance(part, str):
            before, after = trimmed[index - 1], trimmed[index + 1]
            trimmed[index + 1] = after.removeprefix("\n") if isinstance(after, str) else after
            if _is_visual(part):
                trimmed[index - 1] = (
                    before.removesuffix("\n") if isinstance(before, str) else before
                )
    kept = [part for part in trimmed if part]
    first = len(kept)
    # How far the images at the very end reach back
    while first and _is_visual(kept[first - 1]):
        first -= 1
    if not any(_is_visual(part) for part in kept[:first]):
        kept = kept[first:] + kept[:first]
    arranged: list[_Part] = []
    for part in kept:
        if isinstance(part, str) and arranged and arranged[-1] == "\n":
            arranged[-1] = "\n" + part
        else:
            arranged.append(part)
        if _is_visual(part):
            arranged.append("\n")
    return arranged


def _is_visual(part: _Part) -> bool:
    return not isinstance(part, str) and part[0] != "audio"
