"""Imports of what the public trainer leaves with LoRA: merged into the base, beside what trained in
full."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from tests.helpers.errors import raises_code
from tests.helpers.no_source import NO_SOURCE
from vita_train.cli.main import build_app
from vita_train.errors import CheckpointError, UserError
from vita_train.models.build import build_modules
from vita_train.recipe.model import ModelSpec
from vita_train.weights.formats.importing import plan_import, write_import
from vita_train.weights.formats.source import open_source
from vita_train.weights.load import load_modules


@pytest.fixture
def base(ours: nn.ModuleDict, tmp_path: Path) -> Path:
    ours["llm"].save_pretrained(tmp_path / "base", max_shard_size="40KB")
    return tmp_path / "base"


def adapt(llm: nn.Module, out: Path, **settings: object) -> nn.Module:
    """Write an adapter with PEFT itself and return the model that it makes."""
    config = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", **settings
    )  # type: ignore[arg-type]
    adapted = peft.get_peft_model(deepcopy(llm), config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=generator)
    adapted.save_pretrained(out)
    return adapted.eval()


def beside(projector: nn.Module) -> dict[str, Tensor]:
    return {
        f"base_model.model.model.mm_projector.{key}": tensor + 1
        for key, tensor in projector.state_dict().items()
    }


@pytest.mark.parametrize("pickled", [False, True])
def test_an_adapter_is_merged_and_what_trained_in_full_is_taken(
    pickled: bool, ours: nn.ModuleDict, small_spec: ModelSpec, base: Path, tmp_path: Path
) -> None:
    adapted = adapt(ours["llm"], tmp_path / "lora")
    torch.save(beside(ours["projector"]), tmp_path / "lora" / "non_lora_trainables.bin")
    if pickled:
        weights = tmp_path / "lora" / "adapter_model.safetensors"
        torch.save(load_file(weights), tmp_path / "lora" / "adapter_model.bin")
        weights.unlink()
    result = CliRunner().invoke(
        build_app(),
        [
            "model",
            "import",
            str(tmp_path / "lora"),
            "--base",
            str(base),
            "--out",
            str(tmp_path / "out"),
            "--recipe",
            str(written(small_spec, tmp_path)),
        ],
    )
    assert result.exit_code == 0, result.output
    assert "rank 4 is merged into 4 matrices, 4 tensors trained in full" in result.output
    back = build_modules(small_spec, ("llm", "projector"), seed=9).eval()
    load_modules(back, {name: (tmp_path / "out" / f"{name}.safetensors",) for name in back})
    ids = torch.arange(24).view(2, 12)
    with torch.no_grad():
        torch.testing.assert_close(
            back["llm"](ids).logits, adapted(ids).logits, atol=1e-5, rtol=1e-5
        )
        assert (back["llm"](ids).logits - ours["llm"](ids).logits).abs().max() > 1e-2
    for key, tensor in ours["projector"].state_dict().items():
        assert torch.equal(back["projector"].state_dict()[key], tensor + 1)


def written(spec: ModelSpec, folder: Path) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(
        json.dumps(
            {
                "name": "small",
                "data": NO_SOURCE,
                "model": spec.model_dump(mode="json"),
                "stages": {
                    "1.1": {
                        "objective": "next_token",
                        "data": {"caption": 1.0},
                        "trainable": {"projector": 1e-3},
                        "steps": 1,
                    }
                },
            }
        )
    )
    return path


def test_the_base_that_the_adapter_names_is_found(
    ours: nn.ModuleDict, small_spec: ModelSpec, base: Path, tmp_path: Path
) -> None:
    adapt(ours["llm"], tmp_path / "lora")
    config = tmp_path / "lora" / "adapter_config.json"
    config.write_text(
        json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": str(base)})
    )
    source = open_source(tmp_path / "lora")
    assert (source.layout.name, source.terms) == ("llm", "")
    assert set(write_import(plan_import(source, small_spec), tmp_path / "out")["modules"]) == {
        "llm"
    }
    config.write_text(
        json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": "someone/else"})
    )
    with raises_code(UserError, "VT-USE-120", "someone/else", "--base"):
        open_source(tmp_path / "lora")
    with raises_code(UserError, "VT-USE-123"):
        open_source(base, base=base)


def test_an_adapter_of_another_model_is_told_matrix_by_matrix(
    ours: nn.ModuleDict, small_spec: ModelSpec, base: Path, tmp_path: Path
) -> None:
    adapt(ours["llm"], tmp_path / "lora")
    weights = tmp_path / "lora" / "adapter_model.safetensors"
    tensors = load_file(weights)
    first = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    tensors["base_model.model.model.audio_encoder.embed.0.lora_A.weight"] = tensors[
        first.format("A")
    ].clone()
    del tensors[first.format("B")]
    down = "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"
    tensors[down] = tensors[down][:2].clone()
    save_file(tensors, weights)
    plan = plan_import(open_source(tmp_path / "lora", base=base), small_spec)
    told = "; ".join(plan.report.problems)
    assert (
        "the adapter of model.audio_encoder.embed.0.weight belongs to no tensor of the base" in told
    )
    assert "the adapter of model.layers.0.self_attn.q_proj.weight has no matrix B" in told
    assert (
        "the adapter of model.layers.1.mlp.down_proj.weight is (32, 4) times (2, 48), of rank 4"
        in told
    )
    with raises_code(CheckpointError, "VT-WEIGHTS-038"):
        write_import(plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_would_merge_differently_is_refused(
    ours: nn.ModuleDict, base: Path, tmp_path: Path
) -> None:
    adapt(ours["llm"], tmp_path / "lora", use_dora=True)
    with raises_code(CheckpointError, "VT-WEIGHTS-024", "use_dora"):
        open_source(tmp_path / "lora", base=base)
