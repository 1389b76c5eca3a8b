"""Stages that start from imported weights: found, part of the digest, replaced by training, checked
beforehand."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.errors import raises_code
from vita_train.errors import RecipeError, StorageError, UserError
from vita_train.pipeline.step_inputs import pretrained_digests
from vita_train.preflight.run import check_all, initial_weights
from vita_train.recipe.check import check_recipe
from vita_train.recipe.load import dump_recipe, load_recipe
from vita_train.recipe.schema import Recipe
from vita_train.runs.final import write_final
from vita_train.runs.manifest import Manifest, ModuleRef
from vita_train.runs.run import Run
from vita_train.storage.base import FileRef
from vita_train.storage.factory import open_store
from vita_train.training.inputs import find_inputs, stage_digest
from vita_train.weights.pretrained import IMPORT_FORMAT, pretrained_modules, terms_of

NEEDED = ("llm", "vision", "projector")


def write_listing(place: Path, weights: bytes, module: str = "llm", terms: str = "") -> None:
    place.mkdir(exist_ok=True)
    name = f"{module}.safetensors"
    (place / name).write_bytes(weights)
    files = {name: {"bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}}
    (place / "import.json").write_text(
        json.dumps(
            {
                "format": IMPORT_FORMAT,
                "terms": terms,
                "modules": {module: {"files": [name], "parameters": 1}},
                "files": files,
            }
        )
    )


def recipe_with(tmp_path: Path, source: Path | None) -> Recipe:
    settings = [f"weights.llm={source}"] if source else []
    return load_recipe("smoke", [f"storage.root={tmp_path / 'runs'}", *settings])


def digest(recipe: Recipe, stage: str = "1.1") -> str:
    store = open_store(recipe.storage.root)
    write_final(store, "r/prepare", Manifest(kind="prepared", run="r", stage="prepare", digest="d"))
    trained = {"0.llm": "llm", "0.vision": "vision"}
    for earlier, module in trained.items():
        file = FileRef(uri=f"/nowhere/{module}", sha256=module, bytes=1)
        refs = {module: ModuleRef(stage=earlier, files=(file,))} if earlier in recipe.stages else {}
        write_final(
            store,
            f"r/{earlier}",
            Manifest(kind="model", run="r", stage=earlier, digest=earlier, modules=refs),
        )
    return stage_digest(recipe, stage, find_inputs(Run(recipe, "r"), stage, NEEDED), NEEDED)


def without_bootstrap(recipe: Recipe) -> Recipe:
    stages = {name: spec for name, spec in recipe.stages.items() if name != "0.llm"}
    return recipe.model_copy(update={"stages": stages})


def test_a_stage_depends_on_what_was_imported_and_not_on_where_it_lies(tmp_path: Path) -> None:
    write_listing(tmp_path / "a", b"one")
    write_listing(tmp_path / "b", b"one")
    write_listing(tmp_path / "c", b"two")
    first, moved, other = (
        digest(without_bootstrap(recipe_with(tmp_path, tmp_path / name))) for name in "abc"
    )
    assert first == moved
    assert first != other
    assert pretrained_digests(recipe_with(tmp_path, tmp_path / "a")) == {
        "weights": {"llm": [hashlib.sha256(b"one").hexdigest()]}
    }


def test_a_stage_that_trains_the_module_replaces_the_import(tmp_path: Path) -> None:
    write_listing(tmp_path / "a", b"one")
    recipe = recipe_with(tmp_path, tmp_path / "a")
    assert digest(recipe) == digest(recipe_with(tmp_path, None))
    assert find_inputs(Run(recipe, "r"), "1.1", NEEDED).modules["llm"].stage == "0.llm"
    (file,) = find_inputs(Run(recipe, "r"), "0.llm", ("llm",)).modules["llm"].files
    assert (file.uri, file.bytes) == (str(tmp_path / "a" / "llm.safetensors"), 3)


def test_a_recipe_with_imports_is_written_and_read_again(tmp_path: Path) -> None:
    plain = recipe_with(tmp_path, None)
    assert pretrained_digests(plain) == {}
    write_listing(tmp_path / "a", b"one")
    named = recipe_with(tmp_path, tmp_path / "a")
    assert load_recipe(dump_recipe(named)) == named


def test_an_imported_module_may_be_read_frozen(tmp_path: Path) -> None:
    write_listing(tmp_path / "a", b"one")
    check_recipe(without_bootstrap(recipe_with(tmp_path, tmp_path / "a")))
    with raises_code(RecipeError, "VT-RECIPE-027", "llm", "weights.llm"):
        check_recipe(without_bootstrap(recipe_with(tmp_path, None)))


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        (["weights.lmm=/x"], ["'lmm'", "llm"]),
        (["weights.llm=/x", "model.llm.source=/y"], ["model.llm.source", "weights.llm"]),
    ],
)
def test_sources_that_contradict_are_refused(settings: list[str], facts: list[str]) -> None:
    with raises_code(RecipeError, "VT-RECIPE-047", *facts):
        load_recipe("smoke", settings)


@pytest.mark.parametrize(
    ("change", "code", "fact"),
    [
        (
            lambda place: (place / "llm.safetensors").unlink() or (place / "import.json").unlink(),
            "VT-WEIGHTS-072",
            "weights.llm",
        ),
        (lambda place: (place / "import.json").write_text("{"), "VT-WEIGHTS-073", "import.json"),
        (lambda place: (place / "import.json").write_text("{}"), "VT-WEIGHTS-074", "import.json"),
        (lambda place: write_listing(place, b"one", "vision"), "VT-WEIGHTS-075", "vision"),
        (
            lambda place: rewrite(place, "llm.safetensors", "../llm.safetensors"),
            "VT-USE-099",
            "../llm.safetensors",
        ),
        (lambda place: rewrite(place, '"sha256"', '"md5"'), "VT-WEIGHTS-076", ""),
    ],
)
def test_a_place_that_is_no_import_is_one_line(
    tmp_path: Path, change: Any, code: str, fact: str
) -> None:
    write_listing(tmp_path / "a", b"one")
    change(tmp_path / "a")
    with raises_code(UserError, code, fact) as caught:
        pretrained_modules(recipe_with(tmp_path, tmp_path / "a"))
    assert "\n" not in str(caught.value)


def rewrite(place: Path, old: str, new: str) -> None:
    path = place / "import.json"
    path.write_text(path.read_text().replace(old, new))


def test_preflight_looks_at_every_file(tmp_path: Path) -> None:
    write_listing(tmp_path / "a", b"one")
    recipe = recipe_with(tmp_path, tmp_path / "a")
    assert initial_weights(recipe) == f"llm from {tmp_path / 'a'}"
    (tmp_path / "a" / "llm.safetensors").write_bytes(b"o")
    with raises_code(UserError, "VT-USE-084"):
        initial_weights(recipe)
    (tmp_path / "a" / "llm.safetensors").unlink()
    with raises_code(StorageError, "VT-STORE-026", "llm.safetensors"):
        initial_weights(recipe)


def test_preflight_compares_shapes_before_anything_is_trained(tmp_path: Path) -> None:
    write_listing(tmp_path / "a", safetensors("other.weight"))
    checks = {
        check.name: check for check in check_all(Run(recipe_with(tmp_path, tmp_path / "a"), "r"))
    }
    assert checks["initial weights"].ok
    assert not checks["model"].ok
    assert "llm: other.weight 1 is not part of the model" in checks["model"].detail


def safetensors(name: str) -> bytes:
    header = json.dumps({name: {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    return len(header).to_bytes(8, "little") + header + b"\0"


def test_terms_go_with_the_weights(tmp_path: Path) -> None:
    write_listing(tmp_path / "a", b"one", terms="research only")
    assert terms_of(recipe_with(tmp_path, tmp_path / "a")) == "research only"
    assert terms_of(recipe_with(tmp_path, None)) == ""


def test_a_frozen_module_that_nothing_made_is_refused_when_the_data_turn_out_to_need_it(
    tmp_path: Path,
) -> None:
    recipe = load_recipe("smoke", [f"storage.root={tmp_path}"])
    store = open_store(str(tmp_path))
    write_final(store, "r/prepare", Manifest(kind="prepared", run="r", stage="prepare", digest="d"))
    with raises_code(RecipeError, "VT-RECIPE-068", "stages.2.1a", "weights.vision"):
        find_inputs(Run(recipe, "r"), "2.1a", ("audio_encoder", "ctc_head", "vision"))
