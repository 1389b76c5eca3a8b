"""Names given twice in files that people write."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.errors import raises_code
from vita_train.data.sources.registry import load_registry
from vita_train.data.templates import load_template
from vita_train.errors import DataError, RecipeError

SPLIT = '{"records": "a.json", "roots": {}}'


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (f'{{"datasets": {{"d": {{"train": {SPLIT}}},\n "d": {{"train": {SPLIT}}}}}}}', "d"),
        (f'{{"datasets": {{"d": {{"train": {SPLIT},\n "train": {SPLIT}}}}}}}', "train"),
        ('{"datasets": {"d": {"train": {"records": "a", "roots": {"m": "x",\n "m": "y"}}}}}', "m"),
    ],
)
@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_a_registry_with_a_name_twice_is_refused(
    tmp_path: Path, suffix: str, text: str, name: str
) -> None:
    path = tmp_path / f"registry.{suffix}"
    path.write_text(text)
    with raises_code(DataError, "VT-RECIPE-055", f"'{name}'") as caught:
        load_registry(path)
    assert caught.value.where == f"{path}:2"


def test_a_template_with_a_key_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("name: a\nname: b\n")
    with raises_code(RecipeError, "VT-RECIPE-055"):
        load_template(str(tmp_path / "t.yaml"))
