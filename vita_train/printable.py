"""Text from data made safe to show: on a terminal it can neither move the cursor nor begin a line
of its own."""

from __future__ import annotations

import re

#: C0 and C1 controls, line and paragraph separators, marks of writing direction, and what is no
#: character at all. Joiners stay: some languages spell with them.
_ACTIVE = (
    r"\x00-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
    r"\ud800-\udfff"
)
_ANY = re.compile(f"[{_ACTIVE}]")
#: The same but for line breaks of our own messages, which are followed by two spaces, so that no
#: line of data looks like one of ours.
_BUT_INDENTED = re.compile(rf"(?!\n  )[{_ACTIVE}]")
_BUT_LINES = re.compile(rf"(?![\n\t])[{_ACTIVE}]")
#: Characters of an id, a path or a reason that are shown.
MOST = 300
#: Characters of a whole message that are shown.
MOST_OF_A_MESSAGE = 8000


def printable(text: str, most: int = MOST) -> str:
    """Return an id, a path or other text of data in one line, control characters as escapes,
    cut."""
    return _cut(_ANY.sub(_escape, text), most)


def printable_message(text: str) -> str:
    """Return a message that data are part of; only line breaks before an indentation remain."""
    return _cut(_BUT_INDENTED.sub(_escape, text), MOST_OF_A_MESSAGE)


def printable_lines(text: str) -> str:
    """Return text of several lines, a model's answer say, its line breaks and tabs kept; not
    cut."""
    return _BUT_LINES.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    """The escape that JSON has too, so that a line of JSON stays one."""
    return f"\\u{ord(found.group()):04x}"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"
