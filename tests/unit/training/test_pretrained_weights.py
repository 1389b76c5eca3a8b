"""Weights that a recipe names for modules no earlier stage trains."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from tests.helpers.errors import raises_code
from vita_train.errors import CheckpointError, RecipeError
from vita_train.recipe.check import check_recipe
from vita_train.recipe.load import load_recipe
from vita_train.recipe.schema import Recipe
from vita_train.runs.final import write_final
from vita_train.runs.manifest import PRETRAINED, Manifest, ModuleRef
from vita_train.storage.base import FileRef
from vita_train.storage.digest import sha256_file
from vita_train.storage.factory import open_store
from vita_train.training.inputs import Inputs, stage_digest
from vita_train.training.weights import load_inputs
from vita_train.weights.export import newest_modules
from vita_train.weights.pretrained import pretrained_modules
from vita_train.weights.save import save_modules

#: Stage 2.1b alone: the recogniser's encoder must come from somewhere.
ALONE = [
    f"stages.{stage}=null"
    for stage in ("0.llm", "0.vision", "1.1", "1.2", "1.3", "2.1a", "2.2", "3.1", "3.2")
]
ALONE += ["stages.2.1b.after=[]"]


def naming(weights: dict[str, str]) -> Recipe:
    return load_recipe("smoke").model_copy(update={"weights": weights})


def test_a_file_a_folder_and_a_stage_give_the_same_files(tmp_path: Path) -> None:
    written = save_modules({"projector": nn.Linear(3, 4)}, tmp_path / "run" / "1.1")["projector"][0]
    file = FileRef(uri=str(written), sha256=sha256_file(written), bytes=written.stat().st_size)
    wanted = {"projector": ModuleRef(stage=PRETRAINED, files=(file,))}
    assert pretrained_modules(naming({"projector": str(written)})) == wanted
    assert pretrained_modules(naming({"projector": str(tmp_path / "run" / "1.1")})) == wanted
    elsewhere = tmp_path / "other" / "1.1"
    modules = {"projector": ModuleRef(stage="1.1", files=(file,))}
    write_final(
        open_store(str(tmp_path / "other")),
        "1.1",
        Manifest(kind="model", run="other", stage="1.1", digest="d", modules=modules),
    )
    assert pretrained_modules(naming({"projector": f"{elsewhere}/"})) == wanted
    with raises_code(CheckpointError, "VT-WEIGHTS-077", "weights.llm", "projector"):
        pretrained_modules(naming({"llm": str(elsewhere)}))
    (tmp_path / "mm_projector.bin").write_bytes(b"x")
    facts = ("weights.projector", "vita-train model import")
    with raises_code(CheckpointError, "VT-WEIGHTS-072", *facts):
        pretrained_modules(naming({"projector": str(tmp_path / "mm_projector.bin")}))
    with raises_code(CheckpointError, "VT-WEIGHTS-072"):
        pretrained_modules(naming({"vision": str(tmp_path)}))


def test_a_stage_starts_from_them(tmp_path: Path) -> None:
    settings = [f"weights.projector={tmp_path}"]
    recipe = load_recipe("smoke", settings)
    fresh = load_inputs(recipe, Inputs({}, {}), ("projector",), ctc_vocab_size=0)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.add_(1.0)
    save_modules(fresh, tmp_path)
    inputs = Inputs(pretrained_modules(recipe), {})
    loaded = load_inputs(recipe, inputs, ("projector",), ctc_vocab_size=0)
    for name, value in fresh.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    digests = {
        stage_digest(recipe, "1.1", given, ["projector"]) for given in (inputs, Inputs({}, {}))
    }
    assert len(digests) == 2


STAGES = ("1.1", "1.2")


def test_what_a_stage_trained_counts_more() -> None:
    given, trained = (
        Manifest(
            kind="model",
            run="r",
            stage=stage,
            digest="d",
            modules={"projector": ModuleRef(stage=origin, files=())},
        )
        for stage, origin in (("1.1", PRETRAINED), ("1.2", "1.2"))
    )
    assert newest_modules([given, trained], STAGES)["projector"].stage == "1.2"
    assert newest_modules([given], STAGES)["projector"].stage == PRETRAINED


def test_a_recipe_may_rest_on_them() -> None:
    with raises_code(RecipeError, "VT-RECIPE-027", "weights.audio_encoder"):
        check_recipe(load_recipe("tiny", ALONE))
    check_recipe(load_recipe("tiny", [*ALONE, "weights.audio_encoder=e", "weights.llm=l"]))
    with raises_code(RecipeError, "VT-RECIPE-047", "['audio']", "audio_encoder"):
        load_recipe("tiny", ["weights.audio=x"])
