"""What a missed gate advises is a command that is understood."""

from __future__ import annotations

import re

import pytest
import yaml

from vita_train.errors import COMMAND
from vita_train.recipe.extension import parse_extension
from vita_train.recipe.load import load_recipe
from vita_train.training.advice import extension_advice


@pytest.mark.parametrize(("steps", "more"), [(4, 20), (150, 40), (500, 150), (1300, 390)])
def test_the_advised_extension_is_one_that_the_command_takes(
    monkeypatch: pytest.MonkeyPatch, steps: int, more: int
) -> None:
    recipe = load_recipe("tiny", ["stages.1.1.steps=" + str(steps), "stages.1.1.extend=[7]"])
    monkeypatch.setenv(COMMAND, "vita-train run tiny")
    found = re.search(r"vita-train run tiny --extend (\S+);", extension_advice(recipe, "1.1"))
    assert found
    assert parse_extension(found[1]) == ("1.1", more)
    monkeypatch.delenv(COMMAND)
    found = re.search(r"stages\.1\.1\.extend=(\[.*?\])", extension_advice(recipe, "1.1"))
    assert found
    assert yaml.safe_load(found[1]) == [7, more]
