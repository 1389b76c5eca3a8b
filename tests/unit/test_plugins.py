"""Declarations of the package's own are found by where they lie; names that are not known are
answered with those that are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.errors import raises_code
from vita_train.errors import UserError, VitaError
from vita_train.plugins import Registry
from vita_train.recipe.backends import JOB_BACKENDS
from vita_train.recipe.tower import TOWERS
from vita_train.weights.export_layouts import EXPORT_LAYOUTS

_REGISTRY = (
    "from vita_train.plugins import Registry\nTHINGS = Registry('thing', 'roomy.*.declared')\n"
)
_DECLARED = "from roomy.things import THINGS\nTHINGS.add('{0}', '{0}!')\n"


def test_a_new_folder_is_all_that_a_new_declaration_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, files in {
        "": {"things": _REGISTRY},
        "red": {"declared": _DECLARED.format("red")},
        "blue": {"declared": _DECLARED.format("blue")},
        "empty": {},
    }.items():
        (tmp_path / "roomy" / folder).mkdir()
        for name, text in {"__init__": "", **files}.items():
            (tmp_path / "roomy" / folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    from roomy.things import THINGS  # type: ignore[import-not-found]

    assert list(THINGS) == ["blue", "red"]
    assert THINGS["red"] == "red!"


def test_the_package_finds_its_own() -> None:
    assert {"local", "kubernetes", "trainjob", "pytorchjob"} <= set(JOB_BACKENDS)
    assert {"internvit", "siglip", "clip", "eva_clip"} <= set(TOWERS)
    assert {"own", "vita", "internvl", "hf", "adapter"} <= set(EXPORT_LAYOUTS)


def test_names_are_taken_once_and_near_ones_are_told() -> None:
    registry: Registry[int] = Registry("number")
    registry.add("seven", 7)
    registry.add("seven", 7)
    with raises_code(VitaError, "VT-FAIL-007"):
        registry.add("seven", 8)
    with raises_code(UserError, "VT-USE-070") as refused:
        registry["sevn"]
    assert refused.value.remedy == "did you mean seven?"
