"""Questions that need torch, asked in a process of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from vita_train.ended import last_words
from vita_train.recipe.load import dump_recipe
from vita_train.recipe.schema import Recipe


class RefusedError(Exception):
    """The process said no; its last line is the reason."""


def ask(module: str, recipe: Recipe, *words: str) -> dict[str, Any]:
    """Run a module with a recipe's file and further words, and return the JSON object that it
    prints last.

    Raises:
        RefusedError: it ended with another code than 0.
    """
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "recipe.yaml"
        path.write_text(dump_recipe(recipe), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", module, str(path), *words],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        raise RefusedError(last_words(done.returncode, done.stderr))
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer
