"""What the recogniser writes: the inventory of characters or words of the training transcripts."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal

import regex

from vita_train.errors import DataError

BLANK = "<blank>"
UNKNOWN = "<unk>"
#: Scripts that are written without spaces between words. Each character, with its marks, counts as
#: a word there; where the words end is a question of opinion.
_UNSPACED = "".join(
    rf"\p{{scx={script}}}"
    for script in (
        "Han",
        "Hira",
        "Kana",
        "Bopo",
        "Yiii",
        "Thai",
        "Laoo",
        "Khmr",
        "Mymr",
        "Tibt",
        "Java",
        "Tale",
        "Talu",
        "Lana",
    )
)
_UNSPACED_LETTER = rf"[[{_UNSPACED}]&&[\p{{L}}]]"
#: Marks that are drawn enclosing others, variation selectors, and format characters are no part of
#: how a word is spelled; the joiners are (Persian, Malayalam), and U+200B parts words.
_INVISIBLE = regex.compile(
    r"[[\p{Cf}\p{Me}\ufe00-\ufe0f\U000e0100-\U000e01ef]--[\u200b-\u200d]]", regex.V1
)
_DROPPED = regex.compile(r"[^\p{L}\p{M}\p{N}'\u200c\u200d]+")
_LOOSE = regex.compile(
    r"(?<![\p{L}\p{M}])[\u200c\u200d]+|\u200c+(?![\p{L}\p{M}])|(?<!\p{M})\u200d+(?![\p{L}\p{M}])"
    r"|(?<![\p{L}\p{M}\p{N}\u200c\u200d])\p{M}+"
)
_NEEDLESS_SPACE = regex.compile(
    rf" (?={_UNSPACED_LETTER})|(?<={_UNSPACED_LETTER}\p{{M}}*) ", regex.V1
)
_WORD = regex.compile(rf"{_UNSPACED_LETTER}\p{{M}}*|(?:(?!{_UNSPACED_LETTER})[^ ])+", regex.V1)
#: The apostrophe of typesetting, of Ukrainian, and of full width.
_APOSTROPHES = str.maketrans("\u2019\u02bc\uff07", "'''")


def spoken_form(text: str) -> str:
    """Return a transcript as it is compared: lower case, no punctuation but apostrophes, single
    spaces.

    Letters keep their marks, and composed and decomposed spellings become the same (NFC). What is
    kept goes by Unicode category: letters, marks, numbers, and joiners within words. In scripts
    without spaces between words there are none.
    """
    # The Turkish capital alone would become two characters, of which no Turkish word is made.
    text = unicodedata.normalize("NFC", text).replace("\u0130", "i").lower()
    # Once more: lower case may leave letters and marks that compose
    text = _INVISIBLE.sub("", unicodedata.normalize("NFC", text).translate(_APOSTROPHES))
    return _closed(_LOOSE.sub("", _DROPPED.sub(" ", text)))


def spoken_words(text: str) -> list[str]:
    """Return the words of a transcript's spoken form; each character of scripts without spaces is
    one."""
    form = spoken_form(text)
    # The expression is slow, and ASCII has no script without spaces
    return form.split() if form.isascii() else _WORD.findall(form)


def _closed(text: str) -> str:
    """Single spaces, and none beside characters of scripts that have no spaces between words."""
    text = " ".join(text.split())
    return text if text.isascii() else _NEEDLESS_SPACE.sub("", text)


@dataclass(frozen=True)
class CtcVocab:
    """Inventory of the recogniser; unit 0 is the CTC blank, unit 1 anything that training never
    heard."""

    kind: Literal["char", "word"]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def from_texts(cls, texts: Iterable[str], kind: Literal["char", "word"]) -> CtcVocab:
        """Collect the units of transcripts, sorted."""
        found: set[str] = set()
        for text in texts:
            found.update(pieces(text, kind))
        return cls.of_units(found, kind)

    @classmethod
    def of_units(cls, units: Iterable[str], kind: Literal["char", "word"]) -> CtcVocab:
        """Return the inventory of some characters or words, sorted."""
        # Sorted by code point: no locale, and no set, has a say in the numbers
        return cls(kind, (BLANK, UNKNOWN, *sorted(units)))

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}

    def encode(self, text: str) -> list[int]:
        """Return the units of a transcript."""
        return [self._index.get(piece, 1) for piece in pieces(text, self.kind)]

    def decode(self, units: Sequence[int]) -> str:
        """Return the text of units; blanks are skipped (collapse repeats before)."""
        between = " " if self.kind == "word" else ""
        return _closed(between.join(self.names[unit] for unit in units if unit != 0))

    def save(self, path: Path) -> None:
        """Write the inventory as JSON."""
        path.write_text(
            json.dumps({"kind": self.kind, "units": self.names}, ensure_ascii=False, indent=1)
            + "\n",
            encoding="utf-8",
        )

    @classmethod
    def load(cls, path: Path) -> CtcVocab:
        """Read an inventory.

        Raises:
            DataError: the file is missing or not an inventory.
        """
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            return cls(value["kind"], tuple(value["units"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"unit inventory cannot be read: {error}",
                code="VT-DATA-012",
                where=str(path),
                remedy="prepare the data again",
            ) from error


def pieces(text: str, kind: Literal["char", "word"]) -> Sequence[str]:
    """Return the characters or words of a transcript's spoken form."""
    return spoken_words(text) if kind == "word" else spoken_form(text)


def ctc_frames_needed(text: str, kind: Literal["char", "word"]) -> int:
    """Return the fewest encoder frames CTC can align a transcript to: one a unit, and a blank
    between equal ones."""
    units = pieces(text, kind)
    return len(units) + sum(left == right for left, right in pairwise(units))
