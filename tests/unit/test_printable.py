"""Nothing from data moves the cursor or begins a line."""

from __future__ import annotations

import json

import pytest

from vita_train.console import say
from vita_train.errors import DataError, RecipeError
from vita_train.printable import printable, printable_lines, printable_message
from vita_train.recipe.load import load_recipe, parse_recipe

EVIL = "\x1b[2J\x9b31m\x07\r\nerror: fine\x7f\u202e\u2028\udc80"


def test_controls_become_escapes() -> None:
    assert printable(EVIL) == (
        "\\u001b[2J\\u009b31m\\u0007\\u000d\\u000aerror: fine\\u007f\\u202e\\u2028\\udc80"
    )
    assert printable("می\u200cخواهم é 👩\u200d👧") == "می\u200cخواهم é 👩\u200d👧"
    assert printable("x" * 5000) == "x" * 300 + "... (5000 characters)"
    assert printable_lines("a\n\tb\x1bc") == "a\n\tb\\u001bc"
    assert printable_message("2 problems\n  a\nb") == "2 problems\n  a\\u000ab"


def test_errors_and_progress_are_printable(capsys: pytest.CaptureFixture[str]) -> None:
    error = DataError(f"bad {EVIL}", where=EVIL, remedy="remove it")
    say(f"prepare: {error}")
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert not any(mark in shown for mark in ("\x1b", "\x9b", "\r", "\u202e"))
    assert error.what == f"bad {EVIL}"


@pytest.mark.parametrize("line", ["x\n  smoke.yaml: ok", "x\r\n  [VT-OK-001]"])
def test_what_a_recipe_holds_makes_no_lines_of_its_own(line: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("smoke", [f"{line}=1"])
    assert "\n" not in str(caught.value)
    with pytest.raises(RecipeError) as caught:
        parse_recipe(json.dumps({"name": "a", "stages": {line: {}}}), "r")
    assert "\n" not in str(caught.value)
