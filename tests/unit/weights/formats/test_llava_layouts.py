"""LLaVA's three layouts: names written down by hand, round trips bit for bit, transformers' own
classes, and sources that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.helpers.errors import raises_code
from tests.helpers.foreign import build
from vita_train.errors import CheckpointError
from vita_train.plugins import named
from vita_train.recipe.model import ModelSpec
from vita_train.recipe.schema import Recipe
from vita_train.weights.compare import difference
from vita_train.weights.export_layouts import EXPORT_LAYOUTS
from vita_train.weights.formats.exporting import read_back
from vita_train.weights.formats.importing import plan_import
from vita_train.weights.formats.llava_export import llava_logits, with_rows
from vita_train.weights.formats.source import open_source

PARTS = ("llm", "vision", "projector")
TOWERS = {
    "clip": {"kind": "clip", "merge": {"keep": 0.5}},
    "siglip": {"kind": "siglip"},
}


def captioner(recipe: Recipe, kind: str) -> Recipe:
    """Return the small recipe as AuroraCap's: a Llama behind a tower whose last block is unused."""
    model = recipe.model.model_dump()
    model["llm"] |= {"family": "vicuna-7b-16k", "num_kv_heads": 4, "rope_factor": 4.0}
    model["vision"] = {
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 16,
        "num_layers": 3,
        "num_heads": 2,
        "intermediate_size": 24,
        **TOWERS[kind],
    }
    return recipe.model_copy(update={"model": ModelSpec.model_validate(model)})


@pytest.fixture(params=["clip", "siglip"])
def trained(recipe: Recipe, request: pytest.FixtureRequest) -> tuple[Recipe, nn.ModuleDict]:
    found = captioner(recipe, request.param)
    return found, build(found.model, names=PARTS)


def write(to: str, trained: tuple[Recipe, nn.ModuleDict], corpus: Path, out: Path) -> Path:
    recipe, modules = trained
    named(EXPORT_LAYOUTS[to].implementation)(modules, recipe, corpus, out, shard_bytes=20_000)
    return out


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a folder's files; none stands in two."""
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        part = load_file(path)
        assert not found.keys() & part.keys()
        assert sum(tensor.nbytes for tensor in part.values()) <= 20_000 or len(part) == 1
        found |= part
    return found


def test_a21_transformers_own_classes_say_the_same_unmerged(
    trained: tuple[Recipe, nn.ModuleDict], corpus: Path, tmp_path: Path
) -> None:
    recipe, modules = trained
    folder = write("llava-hf", trained, corpus, tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    assert config["text_config"]["vocab_size"] == 128  # 97 and two tokens, in multiples of 64
    assert config["text_config"]["rope_parameters"]["factor"] == 4.0
    assert config.get("visual_token_merge_ratio") == (
        recipe.model.vision.merge.keep if recipe.model.vision.merge else None
    )
    ours, theirs = llava_logits(modules, folder)
    assert ours.abs().max() > 0.1
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
    written = tensors_of(folder)
    rows = written["language_model.model.embed_tokens.weight"]
    assert torch.equal(rows[:97], modules["llm"].model.embed_tokens.weight)
    assert "vision_tower.vision_model.encoder.layers.2.mlp.fc1.weight" in written
    again = tensors_of(write("llava-hf", trained, corpus, tmp_path / "again"))
    assert all(torch.equal(again[name], written[name]) for name in written)


def test_a21_transformers_layout_is_imported_with_its_own_vocabulary(
    trained: tuple[Recipe, nn.ModuleDict], corpus: Path, tmp_path: Path
) -> None:
    recipe, modules = trained
    folder = write("llava-hf", trained, corpus, tmp_path / "out")
    faults = plan_import(open_source(folder), recipe.model).report.problems
    assert any("vocab_size" in fault for fault in faults)
    llm = recipe.model.llm.model_copy(update={"vocab_size": 128})
    wide = recipe.model_copy(update={"model": recipe.model.model_copy(update={"llm": llm})})
    back = read_back(wide, folder, PARTS, tmp_path / "scratch")
    for name in ("vision", "projector"):
        alone = nn.ModuleDict({name: modules[name]})
        assert difference(alone, nn.ModuleDict({name: back[name]})) == ""
    assert torch.equal(back["llm"].lm_head.weight[:97], modules["llm"].lm_head.weight)


@pytest.mark.parametrize("to", ["llava", "xtuner"])
def test_a20_a22_the_other_layouts_come_back_bit_for_bit(
    to: str, recipe: Recipe, corpus: Path, tmp_path: Path
) -> None:
    found = captioner(recipe, "clip")
    modules = build(found.model, names=PARTS)
    folder = write(to, (found, modules), corpus, tmp_path / "out")
    source = open_source(folder)
    assert (source.layout.name, source.terms) == (to, "")
    assert difference(modules, read_back(found, folder, PARTS, tmp_path / "scratch")) == ""
    place = {
        "llava": (folder, "model.vision_tower.vision_tower.vision_model.", "model.mm_projector."),
        "xtuner": (folder / "visual_encoder", "vision_model.", "model."),
    }[to]
    tower = tensors_of(place[0])
    ours = modules["vision"].model.encoder.layers[1].mlp.fc1.weight
    assert torch.equal(tower[f"{place[1]}encoder.layers.1.mlp.fc1.weight"], ours)
    assert not tower[f"{place[1]}encoder.layers.2.mlp.fc1.weight"].any()
    projector = tower if to == "llava" else tensors_of(folder / "projector")
    assert torch.equal(projector[f"{place[2]}2.bias"], modules["projector"][2].bias)
    assert not list(folder.rglob("*.bin"))


def test_a_setting_that_no_shape_tells_is_an_error_that_shows_both(
    recipe: Recipe, corpus: Path, tmp_path: Path
) -> None:
    found = captioner(recipe, "clip")
    modules = build(found.model, names=PARTS)
    folder = write("llava", (found, modules), corpus, tmp_path / "llava")
    vision = found.model.vision.model_copy(update={"feature_layer": -3})
    faults = plan_import(
        open_source(folder), found.model.model_copy(update={"vision": vision})
    ).report.problems
    assert any("--set model.vision.feature_layer=-2" in fault for fault in faults)
    folder = write("xtuner", (found, modules), corpus, tmp_path / "xtuner")
    vision = found.model.vision.model_copy(update={"num_heads": 4})
    llm = found.model.llm.model_copy(update={"rope_factor": 1.0})
    faults = plan_import(
        open_source(folder), found.model.model_copy(update={"vision": vision, "llm": llm})
    ).report.problems
    assert any("--set model.vision.num_heads=2" in fault for fault in faults)
    assert any("rope_type" in fault for fault in faults)


def test_a20_what_a_stage_did_not_train_may_be_absent_from_xtuners_folders(
    recipe: Recipe, tmp_path: Path
) -> None:
    found = captioner(recipe, "clip")
    modules = build(found.model, names=PARTS)
    (tmp_path / "projector").mkdir()
    state = {f"model.{name}": value for name, value in modules["projector"].state_dict().items()}
    save_file(state, tmp_path / "projector" / "model.safetensors")
    plan = plan_import(open_source(tmp_path), found.model)
    assert (list(plan.modules), plan.report.faults) == (["projector"], [])


def test_models_that_llava_does_not_compute_are_refused(
    recipe: Recipe, corpus: Path, tmp_path: Path
) -> None:
    internvit = (recipe, build(recipe.model, names=PARTS))
    siglip = captioner(recipe, "siglip")
    for to, trained in (
        ("xtuner", internvit),
        ("llava", (siglip, build(siglip.model, names=PARTS))),
        ("llava-hf", (captioner(recipe, "clip"), build(recipe.model, names=PARTS[:2]))),
    ):
        with raises_code(CheckpointError, "VT-WEIGHTS-093"):
            write(to, trained, corpus, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_a21_new_rows_lie_around_the_old_ones() -> None:
    old = torch.randn(4000, 8) * torch.arange(1, 9) + 3
    rows = with_rows(old, 24_000)
    assert torch.equal(rows[:4000], old)
    new = rows[4000:]
    torch.testing.assert_close(new.mean(0), old.mean(0), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(new.var(0), 1e-5 * old.var(0), rtol=0.1, atol=0)
