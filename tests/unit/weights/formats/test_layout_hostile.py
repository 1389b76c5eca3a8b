"""Files that would do harm are refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from tests.helpers.errors import raises_code
from tests.helpers.foreign import ENCODER_SETTINGS, plan, write_speech_directory
from vita_train.errors import CheckpointError
from vita_train.recipe.model import ModelSpec
from vita_train.weights.formats.importing import write_import
from vita_train.weights.formats.source import open_source


class Touch:
    """What a hostile pickle would run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_a_pickle_with_code_is_refused_and_not_run(
    ours: nn.ModuleDict, small_spec: ModelSpec, tmp_path: Path
) -> None:
    path = tmp_path / "mm_projector.bin"
    torch.save({"model.mm_projector.0.weight": torch.zeros(2), "x": Touch(tmp_path / "ran")}, path)
    with raises_code(CheckpointError, "VT-WEIGHTS-067", "mm_projector.bin"):
        open_source(path)
    write_speech_directory(ours, tmp_path, "{}")
    torch.save({"x": Touch(tmp_path / "ran")}, tmp_path / "final.pt")
    with raises_code(CheckpointError, "VT-WEIGHTS-067", "final.pt"):
        open_source(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x02}q\x00.", b"PK\x03\x04" + b"\0" * 40, b"x" * 100]
)
def test_damaged_pickles_are_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mm_projector.bin").write_bytes(content)
    with raises_code(CheckpointError, "VT-WEIGHTS-066", "mm_projector.bin") as caught:
        open_source(tmp_path / "mm_projector.bin")
    assert "\n" not in str(caught.value)


def test_truncated_pickles_are_one_line(ours: nn.ModuleDict, tmp_path: Path) -> None:
    path = tmp_path / "mm_projector.bin"
    torch.save(ours["projector"].state_dict(), path)
    path.write_bytes(path.read_bytes()[:-200])
    with raises_code(CheckpointError, "VT-WEIGHTS-066", "mm_projector.bin") as caught:
        open_source(path)
    assert "\n" not in str(caught.value)


def test_a_tensor_that_claims_more_than_its_file_holds_is_never_made(
    small_spec: ModelSpec, tmp_path: Path
) -> None:
    torch.save(
        {"model.mm_projector.0.bias": torch.zeros(1).expand(1 << 40)}, tmp_path / "mm_projector.bin"
    )
    made = plan(tmp_path / "mm_projector.bin", small_spec)
    with raises_code(CheckpointError, "VT-WEIGHTS-038", "0.bias", "1099511627776", "32"):
        write_import(made, tmp_path / "out")


@pytest.mark.parametrize(
    "name",
    [
        "../x.safetensors",
        "/etc/x.safetensors",
        "sub/x.safetensors",
        "..",
        "..\\x.safetensors",
        "final.pt",
    ],
)
def test_an_index_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    (tmp_path / "x.safetensors").touch()
    with raises_code(CheckpointError, "VT-WEIGHTS-051") as caught:
        open_source(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("index", "code", "fact"),
    [
        ("[]", "VT-WEIGHTS-047", ""),
        ("{", "VT-WEIGHTS-046", ""),
        ("{}", "VT-WEIGHTS-050", "weight_map"),
        ('{"weight_map": {"a": 3}}', "VT-WEIGHTS-050", "weight_map"),
        ("[" * 100_000, "VT-WEIGHTS-046", ""),
        ('{"weight_map": {"a": "gone.safetensors"}}', "VT-WEIGHTS-043", "'gone.safetensors'"),
        ('{"weight_map": {"other": "x.safetensors"}}', "VT-WEIGHTS-045", "'a'"),
    ],
)
def test_damaged_indices_are_one_line(tmp_path: Path, index: str, code: str, fact: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(index)
    place = str(tmp_path / "model.safetensors.index.json")
    with raises_code(CheckpointError, code, place, fact) as caught:
        open_source(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_tensor_stored_twice_is_refused(tmp_path: Path) -> None:
    for name in "xy":
        save_file({"a": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    names = ("'a'", "x.safetensors", "y.safetensors")
    with raises_code(CheckpointError, "VT-WEIGHTS-044", *names):
        open_source(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "mm_projector.bin"])
def test_links_out_of_the_directory_are_refused(
    ours: nn.ModuleDict, tmp_path: Path, name: str
) -> None:
    tensors = {
        f"model.mm_projector.{key}": tensor
        for key, tensor in ours["projector"].state_dict().items()
    }
    (tmp_path / "real").mkdir()
    (tmp_path / "given").mkdir()
    save_file(
        tensors, tmp_path / ("given" if name == "config.json" else "real") / "model.safetensors"
    )
    torch.save(tensors, tmp_path / "real" / "mm_projector.bin")
    (tmp_path / "real" / "config.json").write_text("{}")
    (tmp_path / "given" / name).symlink_to(tmp_path / "real" / name)
    with raises_code(CheckpointError, "VT-WEIGHTS-061", name):
        open_source(tmp_path / "given" / (name if name.endswith(".bin") else ""))


def test_names_that_speak_to_a_terminal_are_shown_and_not_obeyed(
    small_spec: ModelSpec, tmp_path: Path
) -> None:
    save_file(
        {
            "model.mm_projector.\x1b[2J\n": torch.zeros(1),
            "model.mm_projector." + "x" * 5000: torch.zeros(1),
        },
        tmp_path / "model.safetensors",
    )
    with raises_code(CheckpointError, "VT-WEIGHTS-038") as caught:
        plan(tmp_path, small_spec, ("projector",)).report.check()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2000


def test_settings_larger_than_any_memory_are_not_written_out(
    ours: nn.ModuleDict, small_spec: ModelSpec, tmp_path: Path
) -> None:
    fitting = yaml.safe_dump(ENCODER_SETTINGS).replace("norm: layer", "norm: *a59")
    lines = [
        "a0: &a0 [x, x]",
        *(f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]" for k in range(1, 60)),
        fitting,
    ]
    write_speech_directory(
        ours,
        tmp_path,
        '{"mean_stat": [0], "var_stat": [1], "frame_num": 1}',
        settings="\n".join(lines),
    )
    (problem,) = plan(tmp_path, small_spec).report.problems
    assert problem.startswith("model_conf.norm is [[no plain value")
    assert len(problem) < 300
