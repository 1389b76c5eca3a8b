"""Recipes, registries and records with something changed by chance: they are taken, or refused by
an error of ours."""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vita_train.data.sources.reading import read_records
from vita_train.data.sources.registry import load_registry
from vita_train.errors import VitaError
from vita_train.recipe.check import check_recipe
from vita_train.recipe.load import dump_recipe, load_recipe, parse_recipe
from vita_train.recipe.yaml_tree import parse_yaml

#: What may stand anywhere instead of what belongs there.
STRANGE: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    3,
    7,
    10**9,
    10**17,
    -(10**17),
    0.0,
    -0.5,
    0.5,
    1.5,
    1e30,
    -1e30,
    1e-30,
    "",
    "a",
    "nan",
    "inf",
    "1e999",
    "../..",
    "\u0000",
    "\ud800",
    "é" * 300,
    [],
    [0],
    [None, {}],
    {},
    {"kind": "none"},
    {"a": {}},
    "s3://k:s@b/x",
    "internvit",
    "siglip",
    "waveform",
    [1, 2, 3],
    [[[]]],
)
REGISTRY = {
    "format": "vita-train/registry/v1",
    "datasets": {
        "one": {
            "task": "qa",
            "train": {"records": "r.json", "roots": {"audio": "a", "p": "."}},
            "dev": {"records": "r.json", "roots": {}},
        }
    },
}
RECORDS = [
    {
        "id": 3,
        "set": "p",
        "image": "x.png",
        "inserted_id": None,
        "end_tag": True,
        "conversations": [
            {"from": "human", "value": "<image>what?"},
            {"from": "gpt", "value": "that"},
        ],
    },
    {
        "audio": ["a.wav"],
        "inserted_id": 1,
        "conversations": [{"from": "human", "value": "<audio>"}, {"from": "gpt", "value": "no"}],
    },
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything within a value but itself."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [where for key, inner in items for where in ((*path, key), *places(inner, (*path, key)))]


def changed(value: Any, rng: random.Random) -> Any:
    """A copy with one to three things replaced, taken out, moved or added."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        everywhere = places(value)
        if not everywhere:
            break
        path = rng.choice(everywhere)
        parent = value
        for key in path[:-1]:
            parent = parent[key]
        way = rng.randrange(5)
        if way == 0:
            del parent[path[-1]]
        elif way == 1 and isinstance(parent, dict):
            parent[rng.choice(["kind", "", "a.b", "__proto__", "0.llm", "é"])] = rng.choice(STRANGE)
        elif way == 2:
            other = value
            for key in rng.choice(everywhere):
                try:
                    other = other[key]
                except (KeyError, IndexError, TypeError):
                    break
            parent[path[-1]] = copy.deepcopy(other)
        elif way == 3 and isinstance(parent[path[-1]], int | float):
            parent[path[-1]] *= rng.choice([-1, 0, 2, 3, 1000, 0.37])
        else:
            parent[path[-1]] = copy.deepcopy(rng.choice(STRANGE))
    return value


def torn(text: str, rng: random.Random) -> bytes:
    """The bytes of a text, now and then cut off or with some of them changed."""
    data = bytearray(text.encode("utf-8", "surrogatepass"))
    if data and rng.random() < 0.2:
        del data[rng.randrange(len(data)) :]
    for _ in range(rng.choice([0, 0, 0, 1, 3])):
        if data:
            data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


RECIPES = [
    parse_yaml(dump_recipe(load_recipe(name)), name).value for name in ("smoke", "vita-1.5-7b")
]


def try_recipe(rng: random.Random, folder: Path) -> None:
    path = folder / "recipe.yaml"
    path.write_bytes(
        torn(json.dumps(changed(rng.choice(RECIPES), rng), ensure_ascii=rng.random() < 0.9), rng)
    )
    recipe = load_recipe(str(path))
    check_recipe(recipe)
    assert parse_recipe(dump_recipe(recipe), "again") == recipe


def try_registry(rng: random.Random, folder: Path) -> None:
    path = folder / rng.choice(["registry.json", "registry.yaml"])
    path.write_bytes(torn(json.dumps(changed(REGISTRY, rng)), rng))
    load_registry(path)


def try_records(rng: random.Random, folder: Path) -> None:
    path = folder / "records.json"
    records = changed(RECORDS, rng)
    lines = isinstance(records, list) and rng.random() < 0.5
    text = "\n".join(map(json.dumps, records)) if lines else json.dumps(records)
    path.write_bytes(torn(text, rng))
    for _ in read_records(path, {"p": folder, "audio": folder}):
        pass


def try_all(rounds: int, seed: int, folder: Path) -> Counter[str]:
    """Go on until one of them ends in an error that is not ours, and say by which seed to find it
    again; else how many of each kind were taken and refused."""
    outcomes: Counter[str] = Counter()
    kinds: tuple[Callable[[random.Random, Path], None], ...] = (
        try_recipe,
        try_recipe,
        try_registry,
        try_records,
    )
    for number in range(rounds):
        rng = random.Random(f"{seed}/{number}")
        attempt = kinds[number % len(kinds)]
        try:
            attempt(rng, folder)
            outcomes[f"{attempt.__name__} taken"] += 1
        except VitaError:
            outcomes[f"{attempt.__name__} refused"] += 1
        except Exception as error:
            raise AssertionError(
                f"{attempt.__name__} of {seed}/{number}: {type(error).__name__}: {error}"
            ) from error
    return outcomes


def test_three_hundred_changed_inputs(tmp_path: Path) -> None:
    try_all(300, 0, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_five_thousand_changed_inputs(tmp_path: Path) -> None:
    try_all(5000, 1, tmp_path)
