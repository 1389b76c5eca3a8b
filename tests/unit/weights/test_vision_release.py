"""Pretrained towers: what is read, and how what does not fit is explained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.helpers.errors import raises_code
from tests.helpers.small_towers import TOWERS, model_of
from vita_train.errors import CheckpointError
from vita_train.models.build import build_modules
from vita_train.models.vision import VisionTower, build_vision, load_vision


def spec_of(name: str, **changes: Any) -> Any:
    return model_of({**TOWERS[name], **changes}).vision


def tower_of(name: str) -> VisionTower:
    torch.manual_seed(3)
    return build_vision(spec_of(name)).eval()


def released_eva(tower: VisionTower) -> dict[str, Tensor]:
    """The tensors of a tower as EVA-CLIP releases them, with everything that we do without."""
    named = {
        f"visual.{key.replace('q_proj.bias', 'q_bias').replace('v_proj.bias', 'v_bias')}": value
        for key, value in tower.model.state_dict().items()
    }
    last = {
        key.replace("blocks.1.", "blocks.2."): value
        for key, value in named.items()
        if "blocks.1." in key
    }
    return (
        named
        | last
        | {
            "visual.norm.weight": torch.ones(16),
            "visual.head.weight": torch.zeros(4, 16),
            "visual.rope.freqs_cos": torch.zeros(25, 8),
            "visual.blocks.0.attn.rope.freqs_sin": torch.zeros(25, 8),
            "text.positional_embedding": torch.zeros(7, 4),
            "logit_scale": torch.zeros(()),
        }
    )


def test_eva_clip_is_read_in_the_names_of_its_release(tmp_path: Path) -> None:
    tower = tower_of("eva_clip")
    released = {key: value.clone() for key, value in released_eva(tower).items()}
    tiles = torch.randn(1, 3, 40, 40)
    save_file(released, tmp_path / "model.safetensors")
    assert torch.equal(load_vision(spec_of("eva_clip"), str(tmp_path)).eval()(tiles), tower(tiles))
    # As VITA nests it.
    nested = {
        f"model.vision_tower.vision_tower.model.{key.removeprefix('visual.')}": value
        for key, value in released.items()
        if key.startswith("visual.")
    }
    save_file(
        nested | {"model.mm_projector.0.bias": torch.zeros(3)}, tmp_path / "model.safetensors"
    )
    assert torch.equal(load_vision(spec_of("eva_clip"), str(tmp_path)).eval()(tiles), tower(tiles))


@pytest.mark.parametrize("nested", [False, True])
def test_pickles_are_read_when_there_is_no_safetensors_file(tmp_path: Path, nested: bool) -> None:
    tower = tower_of("clip")
    state = tower.model.state_dict()
    torch.save(
        {"state_dict": state, "epoch": 3} if nested else state, tmp_path / "pytorch_model.bin"
    )
    loaded = load_vision(spec_of("clip"), str(tmp_path))
    assert all(torch.equal(value, loaded.model.state_dict()[key]) for key, value in state.items())
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "EVA.pt")
    load_vision(spec_of("clip"), str(tmp_path / "EVA.pt"))
    save_file({"other": torch.zeros(2)}, tmp_path / "model.safetensors")
    (tmp_path / "EVA.pt").rename(tmp_path / "pytorch_model.bin")
    with raises_code(CheckpointError, "VT-WEIGHTS-082", "other 2"):  # safetensors come first
        load_vision(spec_of("clip"), str(tmp_path))


class Harmful:
    """Runs a program when it is unpickled without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    torch.save({"weight": Harmful(tmp_path / "run")}, tmp_path / "pytorch_model.bin")
    with raises_code(CheckpointError, "VT-WEIGHTS-067", "pytorch_model.bin"):
        load_vision(spec_of("clip"), str(tmp_path))
    assert not (tmp_path / "run").exists()
    (tmp_path / "pytorch_model.bin").write_bytes(b"no pickle at all")
    with raises_code(CheckpointError, "VT-WEIGHTS-066"):
        load_vision(spec_of("clip"), str(tmp_path))
    torch.save([torch.zeros(2)], tmp_path / "pytorch_model.bin")
    with raises_code(CheckpointError, "VT-WEIGHTS-069"):
        load_vision(spec_of("clip"), str(tmp_path))


@pytest.mark.parametrize("name", TOWERS)
def test_what_does_not_fit_is_named(name: str, tmp_path: Path) -> None:
    state = {key: value.clone() for key, value in tower_of(name).model.state_dict().items()}
    names = list(state)
    missing, reshaped = names[3], names[-1]
    shape = "x".join(map(str, state.pop(missing).shape))
    state[reshaped] = torch.zeros(5, 2)
    save_file(state | {"extra.weight": torch.zeros(2, 3)}, tmp_path / "model.safetensors")
    facts = (f"{missing} {shape}", f"{reshaped} is 5x2", "extra.weight 2x3", str(tmp_path))
    with raises_code(CheckpointError, "VT-WEIGHTS-082", *facts):
        load_vision(spec_of(name), str(tmp_path))


def test_more_blocks_than_the_recipe_says_are_not_passed_over(tmp_path: Path) -> None:
    save_file(tower_of("siglip").model.state_dict(), tmp_path / "model.safetensors")
    with raises_code(CheckpointError, "VT-WEIGHTS-082", "encoder.layers.1.layer_norm1.weight 16"):
        load_vision(spec_of("siglip", num_layers=1, feature_layer=-1), str(tmp_path))


def test_another_kind_of_tower_is_refused(tmp_path: Path) -> None:
    save_file(tower_of("clip").model.state_dict(), tmp_path / "model.safetensors")
    facts = ("siglip", "embeddings.position_embedding.weight is 17x16")
    with raises_code(CheckpointError, "VT-WEIGHTS-082", *facts):
        load_vision(spec_of("siglip", image_size=32), str(tmp_path))


@pytest.mark.parametrize(
    ("file", "said", "facts"),
    [
        (
            "preprocessor_config.json",
            {"image_mean": [0.5, 0.5, 0.5]},
            ["image_mean is [0.5, 0.5, 0.5]", "preprocessor_config.json"],
        ),
        (
            "config.json",
            {"vision_config": {"hidden_act": "gelu"}},
            ["hidden_act is gelu", "quick_gelu", "--set model.vision.activation=gelu"],
        ),
        (
            "config.json",
            {"model_type": "clip_vision_model", "num_attention_heads": 4},
            ["num_attention_heads is 4", "--set model.vision.num_heads=4"],
        ),
    ],
)
def test_what_no_shape_betrays_is_compared(
    tmp_path: Path, file: str, said: dict[str, Any], facts: list[str]
) -> None:
    save_file(tower_of("clip").model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / file).write_text(json.dumps(said))
    with raises_code(CheckpointError, "VT-WEIGHTS-082", *facts):
        load_vision(spec_of("clip"), str(tmp_path))
    # A larger model's own configuration says nothing of its tower.
    (tmp_path / file).write_text(
        json.dumps({"model_type": "qwen2", "num_attention_heads": 28, "hidden_act": "silu"})
    )
    load_vision(spec_of("clip"), str(tmp_path))


def test_a_model_is_built_with_the_weights_of_its_source(tmp_path: Path) -> None:
    tower = tower_of("siglip s2")
    save_file(tower.model.state_dict(), tmp_path / "model.safetensors")
    spec = model_of({**TOWERS["siglip s2"], "source": str(tmp_path)})
    tiles = torch.randn(1, 3, 78, 78)
    assert torch.equal(build_modules(spec, ["vision"])["vision"].eval()(tiles), tower(tiles))
    build_modules(
        model_of({**TOWERS["siglip s2"], "source": str(tmp_path / "gone")}), ["vision"], empty=True
    )


def test_a_place_without_weights_is_refused(tmp_path: Path) -> None:
    facts = ("*.safetensors", "pytorch_model*.bin")
    with raises_code(CheckpointError, "VT-WEIGHTS-078", *facts):
        load_vision(spec_of("clip"), str(tmp_path))
