"""Weights in the type a stage holds them in, from files that all ranks of a node share."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.helpers.errors import raises_code
from vita_train.errors import CheckpointError
from vita_train.models.build import build_modules
from vita_train.recipe.load import load_recipe
from vita_train.recipe.model import ModelSpec
from vita_train.runs.manifest import ModuleRef
from vita_train.storage.base import FileRef
from vita_train.storage.digest import sha256_file
from vita_train.training.engines.base import cast_parameters
from vita_train.training.inputs import Inputs
from vita_train.training.objectives import objective_class
from vita_train.training.weights import load_inputs, stage_dtypes
from vita_train.weights.save import save_modules

HALF = torch.bfloat16


class _Held(nn.Module):
    """As much of an objective as an engine looks at when it casts."""

    def __init__(self, modules: nn.ModuleDict, trained: set[str], keep: tuple[str, ...]) -> None:
        super().__init__()
        self.keep_float32 = keep
        for name, module in modules.items():
            self.add_module(name, module.requires_grad_(name in trained))


@pytest.mark.parametrize("stage", ["1.1", "1.2", "2.1b", "2.2", "3.2"])
def test_modules_are_loaded_in_the_type_that_the_engine_holds_them_in(stage: str) -> None:
    spec = load_recipe("vita-1.5-7b").stages[stage]
    keep = objective_class(spec.objective).keep_float32
    names = [*spec.trainable, "llm", "codec", "vision"]
    dtypes = stage_dtypes(spec, names, HALF, keep)
    held: Any = _Held(
        nn.ModuleDict({name: nn.Linear(2, 2, dtype=dtypes[name]) for name in dtypes}),
        set(spec.trainable),
        keep,
    )
    before = {name: parameter.data_ptr() for name, parameter in held.named_parameters()}
    deepspeed = spec.engine.kind == "deepspeed"
    cast_parameters(held, frozen=HALF, trained=HALF if deepspeed else torch.float32)
    after = {name: parameter.data_ptr() for name, parameter in held.named_parameters()}
    assert after == before, "nothing is copied to another type"
    assert dtypes["llm"] is HALF, "never in float32, whether it trains or not"


def test_what_fsdp2_cuts_is_loaded_as_it_is_stored() -> None:
    recipe = load_recipe(
        "vita-1.5-7b", ["stages.1.2.engine.kind=fsdp2", "stages.1.2.engine.zero=0"]
    )
    spec = recipe.stages["1.2"]
    dtypes = stage_dtypes(spec, ["llm", "vision", "audio_encoder"], HALF, (), stored=torch.float16)
    assert dtypes == {"llm": torch.float16, "vision": torch.float16, "audio_encoder": HALF}


def test_what_is_merged_or_quantised_is_loaded_in_float32() -> None:
    recipe = load_recipe(
        "vita-1.5-7b",
        ["stages.1.2.lora={rank: 8, modules: [llm]}", "stages.1.2.engine.zero=2"],
    )
    dtypes = stage_dtypes(recipe.stages["1.2"], ["llm", "vision"], HALF, ())
    assert dtypes == {"llm": torch.float32, "vision": HALF}


def _stored(spec: ModelSpec, folder: Path, dtype: torch.dtype) -> tuple[nn.ModuleDict, Inputs]:
    drawn = build_modules(spec, ["projector", "vision"], seed=4, dtype=dtype)
    refs = {}
    for name, paths in save_modules(drawn, folder).items():
        files = tuple(
            FileRef(uri=str(path), sha256=sha256_file(path), bytes=path.stat().st_size)
            for path in paths
        )
        refs[name] = ModuleRef(stage="1.1", files=files)
    return drawn, Inputs(refs, {})


@pytest.mark.parametrize("stored", [torch.float32, HALF])
@pytest.mark.parametrize("mapped", [False, True])
def test_they_are_what_casting_afterwards_gives(
    tmp_path: Path, stored: torch.dtype, mapped: bool
) -> None:
    recipe = load_recipe("smoke")
    drawn, inputs = _stored(recipe.model, tmp_path, stored)
    dtypes = {"vision": HALF}
    loaded = load_inputs(
        recipe, inputs, ("vision", "projector"), ctc_vocab_size=0, dtypes=dtypes, mapped=mapped
    )
    assert list(loaded) == ["vision", "projector"]
    for name, module in loaded.items():
        for key, parameter in module.named_parameters():
            wanted = drawn[name].get_parameter(key).to(dtypes.get(name, torch.float32))
            assert parameter.dtype == wanted.dtype
            assert torch.equal(parameter, wanted)


def test_values_that_are_not_finite_are_found_in_files_that_are_shared_too(tmp_path: Path) -> None:
    recipe = load_recipe("smoke")
    drawn = build_modules(recipe.model, ["projector"])
    next(drawn.parameters()).data.view(-1)[3] = float("nan")
    (path,) = save_modules(drawn, tmp_path)["projector"]
    file = FileRef(uri=str(path), sha256=sha256_file(path), bytes=path.stat().st_size)
    inputs = Inputs({"projector": ModuleRef(stage="1.1", files=(file,))}, {})
    with raises_code(CheckpointError, "VT-WEIGHTS-007", "projector"):
        load_inputs(recipe, inputs, ("projector",), ctc_vocab_size=0, mapped=True)


def test_a_source_is_read_in_the_type_that_was_asked_for(tmp_path: Path) -> None:
    small = load_recipe("smoke").model
    build_modules(small, ["llm"], seed=2)["llm"].save_pretrained(tmp_path)
    spec = small.model_copy(update={"llm": small.llm.model_copy(update={"source": str(tmp_path)})})
    wide = build_modules(spec, ["llm"])
    half = build_modules(spec, ["llm"], dtype=HALF)
    for key, parameter in half.named_parameters():
        assert parameter.dtype is HALF
        assert torch.equal(parameter, wide.get_parameter(key).to(HALF))
    assert dict(half.named_buffers()).keys() == dict(wide.named_buffers()).keys()
    for key, buffer in half.named_buffers():
        assert buffer.dtype == wide.get_buffer(key).dtype
        assert torch.equal(buffer, wide.get_buffer(key)), "rotary rates stay exact"
