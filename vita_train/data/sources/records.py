"""One training record: a conversation with its media, in the format of the VITA data files."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, model_validator

from vita_train.data.constants import PLACEHOLDERS
from vita_train.recipe.base import Strict

_PLACEHOLDER = re.compile(rf"(?<!\\)<({'|'.join(PLACEHOLDERS)})>")


class Turn(Strict):
    """One utterance."""

    role: Literal["human", "gpt"] = Field(alias="from")
    value: str


class Record(Strict):
    """One conversation, or a document. A placeholder in a human turn, or anywhere in a document,
    stands for the next file of its kind.

    ``\\<image>`` (``\\<video>``, ``\\<audio>``) writes the placeholder's name as plain text.
    """

    id: Any = None
    set: str | list[str] | None = None
    """Key of the root of images or video; a list has one key per image."""
    conversations: list[Turn] = Field(default=[], min_length=2)
    document: str | list[str] | None = None
    """In place of a conversation: text and ``<image>`` as they follow each other, all of the text a
    target. Of a list, each ends with the end token."""
    image: str | list[str] | None = None
    video: str | None = None
    start: float | None = Field(default=None, ge=0, le=1e6, strict=True)
    """Second of the video at which the record begins."""
    end: float | None = Field(default=None, gt=0, le=1e6, strict=True)
    """Second at which it ends."""
    audio: str | list[str] | None = None
    inserted_id: int | None = Field(default=None, ge=0, le=10**9, strict=True)
    """Index of the gpt turn that answers audio not meant for the assistant."""
    end_tag: bool = Field(default=True, strict=True)
    """False: the last answer was interrupted, its end token is left out."""

    @property
    def images(self) -> list[str]:
        """Image files, in the order of their placeholders."""
        return _as_list(self.image)

    @property
    def videos(self) -> list[str]:
        """Video files (none or one)."""
        return _as_list(self.video)

    @property
    def audios(self) -> list[str]:
        """Audio files, in the order of their placeholders."""
        return _as_list(self.audio)

    @property
    def texts(self) -> list[str]:
        """What is said in the turns, or the documents."""
        return _as_list(self.document) or [turn.value for turn in self.conversations]

    @property
    def image_sets(self) -> list[str | None]:
        """Root key of each image."""
        if isinstance(self.set, list):
            return (
                list(self.set)
                if len(self.set) == len(self.images)
                else [self.set[0]] * len(self.images)
            )
        return [self.set] * len(self.images)

    @model_validator(mode="after")
    def _consistent(self) -> Record:
        if self.document is None:
            _check_turns(self.conversations)
        else:
            _check_document(self)
        _check_media(self)
        _check_span(self)
        _check_inserted(self)
        return self


def split_placeholders(text: str) -> list[str]:
    """Split a human turn into text, kind, text, kind, ..., text; kinds stand at odd places."""
    return _PLACEHOLDER.split(text)


def literal(text: str) -> str:
    """Undo the escape of placeholder names in a piece of a human turn."""
    for kind in PLACEHOLDERS:
        text = text.replace(f"\\<{kind}>", f"<{kind}>")
    return text


def _as_list(value: str | list[str] | None) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


def _check_document(record: Record) -> None:
    if record.conversations:
        raise ValueError("document and conversations in one record are not supported")
    if record.videos or record.audios or record.inserted_id is not None or not record.end_tag:
        raise ValueError("a document has images alone, and neither inserted_id nor end_tag")
    for text in record.texts or [""]:
        if not any(piece.strip() for piece in split_placeholders(text)[::2]):
            raise ValueError("a document without text is empty")


def _check_turns(turns: list[Turn]) -> None:
    if not turns:
        raise ValueError("missing key 'conversations'")
    for place, turn in enumerate(turns):
        expected = "human" if place % 2 == 0 else "gpt"
        if turn.role != expected:
            raise ValueError(
                f"turn {place} is from {turn.role!r}, expected {expected!r}: human and gpt "
                f"alternate, "
                "human first"
            )
        if not turn.value.strip():
            raise ValueError(f"turn {place} is empty")
    if len(turns) % 2:
        raise ValueError(f"the last turn ({len(turns) - 1}) is a question without an answer")


def _check_media(record: Record) -> None:
    images = record.images
    files = {"image": images, "video": record.videos, "audio": record.audios}
    for kind, names in files.items():
        if not names and getattr(record, kind) is not None:
            raise ValueError(f"{kind} is an empty list")
        if any(not name.strip() for name in names):
            raise ValueError(f"{kind} holds an empty file name")
    if images and record.video:
        raise ValueError("image and video in one record are not supported")
    asked = [turn.value for turn in record.conversations[::2]]
    counts = _placeholders(asked if record.document is None else record.texts)
    for kind, names in files.items():
        if counts[kind] != len(names):
            raise ValueError(
                f"{counts[kind]} <{kind}> in human turns but {len(names)} {kind} files; "
                f"write \\<{kind}> where the text itself means it"
            )
    if isinstance(record.set, list):
        if not record.set:
            raise ValueError("set is an empty list")
        if len(record.set) != max(1, len(record.images)) and len(set(record.set)) > 1:
            raise ValueError(f"{len(record.set)} sets for {len(record.images)} images")


def _placeholders(texts: list[str]) -> dict[str, int]:
    """Return how often each placeholder stands in texts."""
    counts = dict.fromkeys(PLACEHOLDERS, 0)
    for text in texts:
        if "<" in text:
            for kind in split_placeholders(text)[1::2]:
                counts[kind] += 1
    return counts


def _check_span(record: Record) -> None:
    if record.start is None and record.end is None:
        return
    if record.video is None:
        raise ValueError("start and end are seconds of a video, and there is none")
    if record.end is not None and record.end <= (record.start or 0):
        raise ValueError(f"end {record.end:g} s is not after start {record.start or 0:g} s")


def _check_inserted(record: Record) -> None:
    visual_only = (record.images or record.videos) and not record.audios
    if visual_only and not record.end_tag:
        raise ValueError("end_tag false is not allowed in a record with images and no audio")
    place = record.inserted_id
    if place is None:
        return
    if place >= len(record.conversations) or place % 2 == 0:
        raise ValueError(
            f"inserted_id {place} is not the index of a gpt turn (turns 0 to "
            f"{len(record.conversations) - 1})"
        )
    if "audio" not in split_placeholders(record.conversations[place - 1].value)[1::2]:
        raise ValueError(f"inserted_id {place} answers a turn without <audio>")
