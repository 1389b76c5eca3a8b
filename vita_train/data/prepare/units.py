"""What the recogniser writes: the inventory of characters or words of the training transcripts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal

from vita_train.errors import DataError

BLANK = "<blank>"
UNKNOWN = "<unk>"
_DROPPED = re.compile(r"[^\w' ]|_")


def spoken_form(text: str) -> str:
    """Return a transcript as it is compared: lower case, no punctuation but apostrophes, single spaces."""
    return " ".join(_DROPPED.sub(" ", text.lower().replace("’", "'")).split())


@dataclass(frozen=True)
class Units:
    """Inventory of the recogniser; unit 0 is the CTC blank, unit 1 anything that training never heard."""

    kind: Literal["char", "word"]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def from_texts(cls, texts: Iterable[str], kind: Literal["char", "word"]) -> Units:
        """Collect the units of transcripts, sorted."""
        found: set[str] = set()
        for text in texts:
            found.update(pieces(text, kind))
        return cls(kind, (BLANK, UNKNOWN, *sorted(found)))

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.names)}

    def encode(self, text: str) -> list[int]:
        """Return the units of a transcript."""
        return [self._places.get(piece, 1) for piece in pieces(text, self.kind)]

    def decode(self, units: Sequence[int]) -> str:
        """Return the text of units; blanks are skipped (collapse repeats before)."""
        joined = (" " if self.kind == "word" else "").join(self.names[unit] for unit in units if unit != 0)
        return " ".join(joined.split())

    def save(self, path: Path) -> None:
        """Write the inventory as JSON."""
        path.write_text(json.dumps({"kind": self.kind, "units": self.names}, ensure_ascii=False, indent=1) + "\n",
                        encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Units:
        """Read an inventory.

        Raises:
            DataError: the file is missing or not an inventory.
        """
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            return cls(value["kind"], tuple(value["units"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"unit inventory cannot be read: {error}", where=str(path),
                            remedy="prepare the data again") from error


def pieces(text: str, kind: Literal["char", "word"]) -> Sequence[str]:
    """Return the characters or words of a transcript's spoken form."""
    form = spoken_form(text)
    return form.split() if kind == "word" else form


def ctc_frames_needed(text: str, kind: Literal["char", "word"]) -> int:
    """Return the fewest encoder frames CTC can align a transcript to: one a unit, and a blank between equal ones."""
    units = pieces(text, kind)
    return len(units) + sum(left == right for left, right in pairwise(units))
