"""What a reply answers, and how the three modes that write or label it spell that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from functools import lru_cache

from vita_train.data.constants import MARK_AUDIO, MARK_NEGATIVE, MARK_TEXT
from vita_train.data.prepare.tokenizer import Tokenizer, control_id, plain_ids
from vita_train.recipe.data import StateMode


class State(Enum):
    """What stands before a reply. Values are the digits of the mode that writes digits."""

    AUDIO = 1
    """A spoken query."""
    NEGATIVE = 2
    """Audio that was not meant for the assistant."""
    TEXT = 3
    """A typed query."""


_GLYPHS = {State.AUDIO: MARK_AUDIO, State.NEGATIVE: MARK_NEGATIVE, State.TEXT: MARK_TEXT}

#: Class of the state head for each clip; upstream writes them as labels -101 and -102. A third
#: class is never labelled.
STATE_CLASSES = {State.AUDIO: 0, State.NEGATIVE: 1}


def state_of(spoken: bool, *, negative: bool) -> State:
    """Return the state of a reply.

    Args:
        spoken: the turn before it holds audio.
        negative: that audio was not meant for the assistant.
    """
    if negative:
        return State.NEGATIVE
    return State.AUDIO if spoken else State.TEXT


def mark_text(state: State, mode: StateMode) -> str:
    """Return what opens a reply; empty in the modes without a mark."""
    if mode == "glyph":
        return _GLYPHS[state]
    return f"<{state.value}>" if mode == "digit" else ""


@lru_cache(maxsize=16)
def mark_ids(tokenizer: Tokenizer, mode: StateMode) -> Mapping[State, tuple[int, ...]]:
    """Return the tokens of each mark: one for a glyph, those of the text for a digit; empty in the
    other modes.

    Raises:
        RecipeError: the tokenizer has a glyph not as one token.
    """
    if mode == "glyph":
        return {state: (control_id(tokenizer, glyph),) for state, glyph in _GLYPHS.items()}
    if mode == "digit":
        return {state: tuple(plain_ids(tokenizer, mark_text(state, mode))) for state in State}
    return {}


def take_mark(
    ids: Iterator[int], marks: Mapping[tuple[int, ...], State], tell: Callable[[State], object]
) -> Iterator[int]:
    """Pass the ids of a reply on as they come, but keep back the state mark it opens with and tell
    its state."""
    held: list[int] = []
    for token in ids:
        held.append(token)
        if tuple(held) in marks:
            tell(marks[tuple(held)])
            held.clear()
            break
        # No mark begins so: what was kept back is the reply
        if not any(mark[: len(held)] == tuple(held) for mark in marks):
            break
    yield from held
    yield from ids
