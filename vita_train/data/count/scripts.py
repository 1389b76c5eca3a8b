"""In which script a text is written, by the names that Unicode gives its letters.

A script is no language: ``Latin`` stands for English as for Vietnamese. It tells apart what corpora
are mixed of (Chinese, English, Arabic) without a model and without doubt.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import lru_cache

#: Scripts whose letters' names begin with another word.
_NAMES = {"Cjk": "Han"}
NONE = "none"
"""The script of a text without letters."""


def count_scripts(text: str) -> Counter[str]:
    """Return how many letters of each script a text has."""
    counts: Counter[str] = Counter()
    for character, count in Counter(text).items():
        if script := _script_of(character):
            counts[script] += count
    return counts


def main_script(counts: Counter[str]) -> str:
    """Return the script that most letters are of, the first by name where there are several."""
    return min(counts, key=lambda name: (-counts[name], name), default=NONE)


@lru_cache(maxsize=1 << 16)
def _script_of(character: str) -> str:
    """Script of a letter; empty of anything else."""
    if not character.isalpha():
        return ""
    plain = unicodedata.normalize("NFKC", character)[0]  # full-width and other forms
    word = unicodedata.name(plain, "other").split()[0].title()
    return _NAMES.get(word, word)
