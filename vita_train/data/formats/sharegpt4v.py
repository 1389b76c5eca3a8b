"""ShareGPT4V: rows with images of SAM and rows with repetitive answers are left out.

Repetition is measured by the shares of Gopher (Rae et al. 2021, table A1), as published filters
apply them, and by how far the answer can be compressed. An id is kept once.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from vita_train.data.adapters.base import Rejected
from vita_train.data.formats.rewrite import Made, Row

_SAM = re.compile(r"sa_\d+")
#: The most of the characters that the most frequent n-gram may cover, by n.
_TOP = {2: 0.20, 3: 0.18, 4: 0.16}
#: The most of the characters that n-grams which occur again may cover, by n.
_AGAIN = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
#: The most lines and paragraphs that may be there twice, and the most of the characters in them.
_LINES, _LINE_CHARACTERS = 0.30, 0.20
#: The least bytes of zlib for a byte of text. English prose has some 0.45 to 0.65.
_COMPRESSED = 0.22
#: Shorter answers are not measured: in a few words, two that are alike are many.
_LEAST_WORDS = 20


def records(rows: Iterable[Row]) -> Iterator[Made]:
    """Yield each row that is kept as it stands, and a reject of each other."""
    seen: set[str] = set()
    for where, row in rows:
        reason = _fault(row)
        name = str(row.get("id", where))
        if not reason and name in seen:
            reason = "id twice"
        if reason:
            yield Rejected(where, reason)
        else:
            seen.add(name)
            yield row


def _fault(row: dict[str, Any]) -> str:
    turns = row.get("conversations")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return "no conversation"
    image = row.get("image")
    names = image if isinstance(image, list) else [image]
    stems = [PurePosixPath(str(name)).stem for name in (row.get("id"), *names)]
    if any(_SAM.fullmatch(stem) for stem in stems):
        return "image of SAM"
    answers = [str(turn.get("value", "")) for turn in turns if turn.get("from") == "gpt"]
    return next(filter(None, map(repetition, answers)), "")


def repetition(text: str) -> str:
    """Return which measure finds a text repetitive; nothing where none does."""
    words = text.split()
    if len(words) < _LEAST_WORDS:
        return ""
    for name, pattern in (("lines", r"\n+"), ("paragraphs", r"\n{2,}")):
        pieces = [piece for piece in re.split(pattern, text.strip()) if piece]
        again = [piece for place, piece in enumerate(pieces) if piece in pieces[:place]]
        if len(again) > _LINES * len(pieces):
            return f"repeated {name}"
        if sum(map(len, again)) > _LINE_CHARACTERS * len(text):
            return f"repeated {name}"
    for size, most in _TOP.items():
        grams = Counter(_grams(words, size))
        gram, count = max(grams.items(), key=lambda item: item[1], default=("", 0))
        if count > 1 and len(gram) * count > most * len(text):
            return f"frequent {size}-gram"
    for size, most in _AGAIN.items():
        if _repeated(words, size) > most * len(text):
            return f"repeated {size}-grams"
    data = text.encode()
    return "compressible" if len(zlib.compress(data, 9)) < _COMPRESSED * len(data) else ""


def _grams(words: Sequence[str], size: int) -> list[str]:
    return [" ".join(words[place : place + size]) for place in range(len(words) - size + 1)]


def _repeated(words: Sequence[str], size: int) -> int:
    """Return the characters of n-grams that were there before, none counted twice."""
    seen: set[str] = set()
    place = characters = 0
    grams = _grams(words, size)
    while place < len(grams):
        if grams[place] in seen:
            characters += len(grams[place].replace(" ", ""))
            place += size
        else:
            seen.add(grams[place])
            place += 1
    return characters
