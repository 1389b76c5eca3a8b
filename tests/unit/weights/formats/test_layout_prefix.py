"""Checkpoints of a wrapped model, and sources that hold values which are not finite, through an
import."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from tests.helpers.errors import raises_code
from tests.helpers.foreign import imported, plan, released
from vita_train.cli.main import build_app
from vita_train.errors import CheckpointError, UserError
from vita_train.recipe.model import ModelSpec
from vita_train.weights.compare import difference
from vita_train.weights.formats.importing import write_import
from vita_train.weights.formats.source import open_source


def write(directory: Path, tensors: dict[str, Tensor]) -> Path:
    directory.mkdir(exist_ok=True)
    save_file(
        {name: tensor.clone() for name, tensor in tensors.items()}, directory / "model.safetensors"
    )
    return directory


def of_a_language_model(ours: nn.ModuleDict, prefix: str = "") -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in ours["llm"].state_dict().items()}


@pytest.mark.parametrize("prefix", ["language_model.", "module.base_model."])
def test_a_prefix_is_offered_and_taken(
    ours: nn.ModuleDict, small_spec: ModelSpec, tmp_path: Path, prefix: str
) -> None:
    path = write(
        tmp_path / "in", {**of_a_language_model(ours, prefix), "eyes.proj.weight": torch.zeros(2)}
    )
    with raises_code(CheckpointError, "VT-WEIGHTS-052", f"--prefix {prefix}"):
        open_source(path)
    made = plan(path, small_spec, prefix=prefix)
    assert [row.theirs for row in made.report.rows if row.status == "left out"] == [
        "eyes.proj.weight"
    ]
    alone = nn.ModuleDict({"llm": ours["llm"]})
    assert difference(alone, imported(path, small_spec, tmp_path / "out", prefix=prefix)) == ""
    with raises_code(UserError, "VT-USE-131"):
        open_source(path, prefix="other")


def test_a_whole_wrapped_checkpoint_is_refused_by_the_command(
    ours: nn.ModuleDict, tmp_path: Path
) -> None:
    torch.save(
        {f"ddp.{name}": tensor for name, tensor in of_a_language_model(ours).items()},
        tmp_path / "model.bin",
    )
    asked = CliRunner().invoke(
        build_app(),
        ["model", "import", str(tmp_path / "model.bin"), "--out", str(tmp_path / "out")],
    )
    assert isinstance(asked.exception, CheckpointError)
    assert "--prefix ddp." in asked.exception.remedy
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_values_that_are_not_finite_are_refused_by_name(
    ours: nn.ModuleDict, small_spec: ModelSpec, tmp_path: Path, dtype: torch.dtype, value: float
) -> None:
    tensors = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in released(ours).items()
    }
    write(tmp_path / "good", tensors)
    write_import(plan(tmp_path / "good", small_spec, ("projector",)), tmp_path / "taken")
    bad = tensors["model.mm_projector.2.bias"].clone()
    bad[-1] = value
    write(tmp_path / "bad", {**tensors, "model.mm_projector.2.bias": bad})
    with raises_code(CheckpointError, "VT-WEIGHTS-083", "bad", "projector.2.bias"):
        write_import(plan(tmp_path / "bad", small_spec, ("projector",)), tmp_path / "out")
    assert not (tmp_path / "out").exists()
