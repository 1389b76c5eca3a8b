"""Leniencies: named ways to take records that the strict format refuses, each counted.

A dataset of the registry names those it wants, one by one (``lenient``) or as an ``adapter``, which
is a set of them. One entry of `LENIENCIES` adds a leniency, one of `ADAPTERS` an adapter; a package
outside this one adds either from its plugin (`vita_train.plugins`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeGuard

from vita_train.data.constants import PLACEHOLDERS
from vita_train.data.sources.records import Record, Turn, split_placeholders
from vita_train.plugins import Registry

#: Keys that the record format knows.
RECORD_KEYS = frozenset(Record.model_fields)
_TURN_KEYS = frozenset(field.alias or name for name, field in Turn.model_fields.items())
_ROLES = {
    "user": "human",
    "USER": "human",
    "Human": "human",
    "assistant": "gpt",
    "ASSISTANT": "gpt",
    "bot": "gpt",
    "model": "gpt",
    "GPT": "gpt",
    "Assistant": "gpt",
}
_TURN_NAMES = {"role": "from", "content": "value", "text": "value"}
#: What `reading` leaves behind where an object has a key twice; such a record stays refused.
TWICE = " (twice)"

Change = Callable[[dict[str, Any]], bool]


@dataclass(frozen=True)
class Leniency:
    """One departure from the strict format that a dataset may ask for."""

    name: str
    about: str
    """What it does to a record."""
    change: Change
    """Changes a decoded record in place; returns whether it had to."""
    forgives: bool = True
    """Whether it takes records that are refused without it. One that only writes records anew is
    never proposed."""


LENIENCIES: Registry[Leniency] = Registry("leniency")


def _turns(value: dict[str, Any]) -> list[Any]:
    turns = value.get("conversations")
    return turns if isinstance(turns, list) else []


def _unknown_keys(value: dict[str, Any]) -> bool:
    changed = False
    for each, known in ((value, RECORD_KEYS), *((turn, _TURN_KEYS) for turn in _turns(value))):
        if isinstance(each, dict):
            for key in [key for key in each if key not in known and not key.endswith(TWICE)]:
                del each[key]
                changed = True
    return changed


def _drop_turns(value: dict[str, Any], kept: list[Any]) -> bool:
    changed = len(kept) < len(_turns(value))
    if changed:
        value["conversations"] = kept
        inserted = value.get("inserted_id")
        if isinstance(inserted, int):  # it counts the turns as they stood
            value.pop("inserted_id")
    return changed


def _leading_gpt(value: dict[str, Any]) -> bool:
    turns = _turns(value)
    first = 0
    while (
        first < len(turns) and isinstance(turns[first], dict) and turns[first].get("from") == "gpt"
    ):
        first += 1
    return _drop_turns(value, turns[first:])


def _system_turns(value: dict[str, Any]) -> bool:
    return _drop_turns(
        value,
        [
            turn
            for turn in _turns(value)
            if not (isinstance(turn, dict) and turn.get("from") == "system")
        ],
    )


def _last_question(value: dict[str, Any]) -> bool:
    turns = _turns(value)
    last = len(turns)
    while last and isinstance(turns[last - 1], dict) and turns[last - 1].get("from") == "human":
        last -= 1
    return _drop_turns(value, turns[:last])


def _role_names(value: dict[str, Any]) -> bool:
    changed = False
    for turn in _turns(value):
        if not isinstance(turn, dict):
            continue
        for name, ours in _TURN_NAMES.items():
            if name in turn and ours not in turn:
                turn[ours] = turn.pop(name)
                changed = True
        role = turn.get("from")
        if isinstance(role, str) and role in _ROLES:
            turn["from"] = _ROLES[role]
            changed = True
    return changed


def _empty_media(value: dict[str, Any]) -> bool:
    changed = False
    for key in ("image", "video", "audio", "set"):
        if key in value and (value[key] == "" or value[key] == []):
            del value[key]
            changed = True
    return changed


def _missing_placeholders(value: dict[str, Any]) -> bool:
    turns = _turns(value)
    first = turns[0] if turns else None
    if not isinstance(first, dict) or not isinstance(first.get("value"), str):
        return False
    added = ""
    for kind in PLACEHOLDERS:
        files = value.get(kind)
        count = len(files) if isinstance(files, list) else int(isinstance(files, str))
        held = any(
            kind in split_placeholders(turn["value"])[1::2]
            for turn in turns[::2]
            if isinstance(turn, dict) and isinstance(turn.get("value"), str)
        )
        if count and not held:
            added += f"<{kind}>\n" * count
    if added:
        first["value"] = added + first["value"]
    return bool(added)


def _stray_placeholders(value: dict[str, Any]) -> bool:
    changed = False
    for kind in PLACEHOLDERS:
        if value.get(kind) not in (None, "", []):
            continue
        for turn in _turns(value)[::2]:
            if isinstance(turn, dict) and isinstance(turn.get("value"), str):
                parts = split_placeholders(turn["value"])
                if kind in parts[1::2]:
                    turn["value"] = "".join(
                        (f"\\<{part}>" if part == kind else f"<{part}>") if odd % 2 else part
                        for odd, part in enumerate(parts)
                    )
                    changed = True
    return changed


def _joined_questions(value: dict[str, Any]) -> bool:
    kept: list[Any] = []
    for turn in _turns(value):
        last = kept[-1] if kept else None
        if _is_question(turn) and _is_question(last):
            kept[-1] = {**last, "value": last["value"] + turn["value"]}
        else:
            kept.append(turn)
    return _drop_turns(value, kept)


def _is_question(turn: Any) -> TypeGuard[dict[str, Any]]:
    return (
        isinstance(turn, dict)
        and turn.get("from") == "human"
        and isinstance(turn.get("value"), str)
    )


def _images_first(value: dict[str, Any]) -> bool:
    return _rewrite_questions(value, lambda text: f"\n{text}" if text else "")


def _image_only(value: dict[str, Any]) -> bool:
    return _rewrite_questions(value, lambda text: "")


def _rewrite_questions(value: dict[str, Any], rewrite: Callable[[str], str]) -> bool:
    """Put the images of every question with some before its text, with spaces between them, and
    write the text anew."""
    changed = False
    for turn in filter(_is_question, _turns(value)):
        pieces = split_placeholders(turn["value"])
        count = pieces[1::2].count("image")
        if not count:
            continue
        text = "".join(
            piece if place % 2 == 0 else f"<{piece}>"
            for place, piece in enumerate(pieces)
            if place % 2 == 0 or piece != "image"
        )
        written = " ".join(["<image>"] * count) + rewrite(text.strip())
        changed = changed or written != turn["value"]
        turn["value"] = written
    return changed


#: In the order they are applied: names first, then turns, then what counts them.
for _leniency in (
    Leniency("role_names", "`user`, `assistant`, `role`, `content` are read", _role_names),
    Leniency("unknown_keys", "keys that the format does not have are ignored", _unknown_keys),
    Leniency("empty_media", "an empty text or list of media counts as none", _empty_media),
    Leniency("system_turns", "turns from `system` are left out", _system_turns),
    Leniency("leading_gpt", "answers before the first question are left out", _leading_gpt),
    Leniency(
        "last_question", "questions at the end without an answer are left out", _last_question
    ),
    Leniency(
        "joined_questions",
        "questions in a row are one, with nothing between them",
        _joined_questions,
    ),
    Leniency(
        "missing_placeholders",
        "files without any placeholder of their kind go before the first question",
        _missing_placeholders,
    ),
    Leniency(
        "stray_placeholders",
        "placeholders of a kind that the record has no file of are plain text",
        _stray_placeholders,
    ),
    Leniency(
        "images_first",
        "a question's images stand before its text",
        _images_first,
        forgives=False,
    ),
    Leniency(
        "image_only",
        "a question with images is its images alone",
        _image_only,
        forgives=False,
    ),
):
    LENIENCIES.add(_leniency.name, _leniency)


@dataclass(frozen=True)
class Adapter:
    """A layout of public files: the leniencies that it needs."""

    name: str
    about: str
    lenient: tuple[str, ...]


#: What AuroraCap does to a row. Roles other than human and gpt are errors there too.
_AURORA = (
    "unknown_keys",
    "empty_media",
    "leading_gpt",
    "last_question",
    "joined_questions",
    "images_first",
)
ADAPTERS: Registry[Adapter] = Registry("adapter of records")
for _adapter in (
    Adapter(
        "llava",
        "LLaVA-Instruct, mix665k, ShareGPT4V, ALLaVA",
        ("unknown_keys", "empty_media", "leading_gpt", "system_turns", "last_question"),
    ),
    Adapter(
        "sharegpt",
        "dialogues of ShareGPT and chat exports",
        (
            "role_names",
            "unknown_keys",
            "empty_media",
            "leading_gpt",
            "system_turns",
            "last_question",
        ),
    ),
    Adapter("aurora", "AuroraCap's rows, as its code maps them", _AURORA),
    Adapter(
        "aurora_captions",
        "the same, asking nothing beside the images",
        (*_AURORA, "image_only"),
    ),
    Adapter(
        "vita",
        "data files of the public trainer",
        ("unknown_keys", "empty_media", "leading_gpt"),
    ),
):
    ADAPTERS.add(_adapter.name, _adapter)


def leniencies(adapter: str | None, lenient: Iterable[str]) -> tuple[str, ...]:
    """Return the names of all leniencies that a dataset asks for, in the order of their use.

    Raises:
        ValueError: there is no such adapter or leniency; the known ones are listed.
    """
    wanted = set(lenient)
    if adapter is not None:
        if adapter not in ADAPTERS:
            raise ValueError(
                f"there is no adapter {adapter!r}; adapters are "
                + ", ".join(f"{name} ({ADAPTERS[name].about})" for name in ADAPTERS)
            )
        wanted |= set(ADAPTERS[adapter].lenient)
    if unknown := sorted(wanted - set(LENIENCIES)):
        raise ValueError(
            f"there is no leniency {unknown[0]!r}; leniencies are "
            + ", ".join(f"{name} ({LENIENCIES[name].about})" for name in LENIENCIES)
        )
    return tuple(name for name in LENIENCIES if name in wanted)


def loosen(value: dict[str, Any], names: Iterable[str]) -> tuple[str, ...]:
    """Change a decoded record in place; return the names of the leniencies that it needed."""
    return tuple(name for name in names if LENIENCIES[name].change(value))
