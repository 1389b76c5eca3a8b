"""The rules on imports in pyproject.toml name every module that they are about: a new one cannot
slip by."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Where torch belongs: these modules, and the rooms that another contract holds apart from it.
WITH_TORCH = {"vita_train.data.media", "vita_train.data.loading"} | {
    f"vita_train.{room}" for room in ("models", "weights", "training", "evaluation", "inference")
}


def sources(*names: str) -> set[str]:
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    found = {rule["name"]: set(rule.get("source_modules", ())) for rule in rules["contracts"]}
    return set().union(*(found[name] for name in names))


def modules(room: str) -> set[str]:
    return {
        f"{room}.{path.stem}"
        for path in (ROOT / room.replace(".", "/")).iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").is_file()) and path.stem != "__init__"
    }


@pytest.mark.parametrize("room", ["vita_train", "vita_train.data"])
def test_torch_is_where_it_belongs(room: str) -> None:
    ruled = sources(
        "No torch below data and models, however indirectly",
        "No torch in what starts, checks and shows, nor in data but for media and loading",
    )
    assert modules(room) - ruled - WITH_TORCH - {"vita_train.data"} == set()


def test_the_kubernetes_client_is_in_one_backend() -> None:
    ruled = sources("The Kubernetes client only in launch.kubernetes and preflight")
    assert modules("vita_train.launch") - ruled == {"vita_train.launch.kubernetes"}
