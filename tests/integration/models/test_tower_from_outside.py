"""A vision tower that is no part of the package: counted, trained for a step, read under the names
of its release."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.plugin_world import with_plugin, write_package, write_records
from vita_train.recipe.presets import preset_path

DECLARED = '''
from typing import Literal

from vita_train.recipe.tower import Means, ReleaseNames, Stds, TowerKind, TowerSpec, register_tower


class PatchSpec(TowerSpec):
    """Patches through one layer a block."""

    kind: Literal["patches"] = "patches"
    image_size: int = 32
    patch_size: int = 16
    hidden_size: int = 12
    num_layers: int = 2
    num_heads: int = 1
    intermediate_size: int = 12
    mean: Means = (0.5, 0.5, 0.5)
    std: Stds = (0.5, 0.5, 0.5)


register_tower(TowerKind(PatchSpec, "patched.work:PatchTower", ReleaseNames(
    renamed=(("^stem[.]", "embed."), ("^layers[.]", "blocks.")),
    unused="head[.]", block="layers[.]([0-9]+)[.]")))
'''
WORK = """
from torch import nn

from vita_train.models.vision.tower import VisionTower


class PatchTower(VisionTower):
    def __init__(self, spec):
        super().__init__(spec)
        self.model = nn.Module()
        self.model.embed = nn.Conv2d(3, spec.hidden_size, spec.patch_size, spec.patch_size)
        self.model.blocks = nn.ModuleList(nn.Linear(spec.hidden_size, spec.hidden_size)
                                          for _ in range(spec.num_layers))

    @property
    def blocks(self):
        return self.model.blocks

    def encode(self, pixels):
        pixels = pixels.to(self.model.embed.weight.dtype)
        tokens = self.model.embed(pixels).flatten(2).transpose(1, 2)
        for block in self.model.blocks:
            tokens = tokens + block(tokens).relu()
        return tokens
"""
WALK = """
import sys
from vita_train.pipeline import steps
from vita_train.recipe.load import load_recipe
from vita_train.runs.run import Run
from vita_train.training.stage import run_stage


def main():
    run = Run(load_recipe(sys.argv[1]), "r")
    steps.fetch_step(run)
    steps.prepare_step(run)
    manifest = run_stage(run, "see")
    print(manifest.model_dump_json())


if __name__ == "__main__":
    main()
"""
READ = """
import sys
import torch
from safetensors.torch import save_file
from vita_train.models.vision import build_vision, load_vision
from vita_train.recipe.tower import TOWERS

spec = TOWERS["patches"].spec()
tower = build_vision(spec)
theirs = {f"vision_tower.{name.replace('embed.', 'stem.').replace('blocks.', 'layers.')}": tensor
          for name, tensor in tower.model.state_dict().items()}
save_file({**theirs, "vision_tower.head.weight": torch.zeros(2)}, sys.argv[1])
again = load_vision(spec, sys.argv[1]).model.state_dict()
assert all(torch.equal(tensor, again[name]) for name, tensor in tower.model.state_dict().items())
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return with_plugin(write_package(tmp_path / "site", "patched", declared=DECLARED, work=WORK))


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Smoke's language model behind another tower, and one stage that sees."""
    goods, _ = write_records(tmp_path / "mine")
    smoke = preset_path("smoke")
    assert smoke is not None
    shipped = yaml.safe_load(smoke.read_text())
    settings: dict[str, Any] = {
        "model": {**shipped["model"], "vision": {"kind": "patches"}},
        "tokenizer": shipped["tokenizer"],
        "name": "patched",
        "storage": {"root": str(tmp_path / "runs")},
        "data": {
            "source": {"mine": {"kind": "records", "registry": str(goods)}},
            "image": {"max_tiles": 1},
        },
        "stages": {
            "see": {
                "objective": "next_token",
                "data": {"goods": 1.0},
                "steps": 1,
                "trainable": {"llm": 1e-3, "vision": 1e-3, "projector": 1e-3},
                "batch": {"global_batch_size": 2, "seq_len": 256},
                "eval": {"batches": 1, "max_samples": 2},
            }
        },
    }
    path = tmp_path / "patched.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


def _python(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


#: Of the patches' convolution and two square layers of width 12.
PARAMETERS = 3 * 16 * 16 * 12 + 12 + 2 * (12 * 12 + 12)


def test_the_planner_counts_it_and_its_release_is_read(
    recipe: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    counted = json.loads(_python(environment, "-m", "vita_train.planning.parameters", str(recipe)))
    assert counted["modules"]["vision"] == PARAMETERS
    _python(environment, "-c", READ, str(tmp_path / "release.safetensors"))


@pytest.mark.slow
def test_a_stage_trains_it(recipe: Path, environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "walk.py").write_text(WALK)
    final = json.loads(_python(environment, str(tmp_path / "walk.py"), str(recipe)))
    assert final["modules"]["vision"]["stage"] == "see"
    assert final["lineage"]["trained"]["vision"] == PARAMETERS
