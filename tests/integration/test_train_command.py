"""``vita-train train`` from a command line of the public trainer to committed weights, twice in a
row."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vita_train.recipe.load import load_recipe
from vita_train.runs.final import read_final
from vita_train.runs.manifest import PRETRAINED
from vita_train.storage.factory import open_store

FLAGS = """--model_type qwen2p5_instruct --version qwen2p5_instruct --model_name_or_path none
--vision_tower InternViT
--dataset_use Pretrain_video0 --image_aspect_ratio square --min_dynamic_patch 1
--max_dynamic_patch 1
--per_device_train_batch_size 2 --gradient_accumulation_steps 1 --max_steps 2
--learning_rate 1e-3 --weight_decay 0.
--lr_scheduler_type cosine --save_strategy steps --save_steps 500 --evaluation_strategy no
--model_max_length 128
--report_to none --registry registry.json"""
#: A model of the smallest sizes, with no pretrained parts.
SIZES = (
    "tokenizer={vocab_size: 320}",
    "model.llm={vocab_size: 320, hidden_size: 32, num_layers: 1, num_heads: 2, num_kv_heads: 1, "
    "intermediate_size: 64, max_positions: 256}",
    "model.vision={image_size: 32, patch_size: 8, hidden_size: 16, num_layers: 1, num_heads: 2, "
    "intermediate_size: 32}",
    "model.speech_decoder.width=32",
)


def _world(folder: Path) -> None:
    (folder / "pics").mkdir()
    for name in range(6):
        pixels = np.full((32, 32, 3), 40 * name, np.uint8)
        Image.fromarray(pixels).save(folder / "pics" / f"{name}.png")
    records = [
        {
            "set": "pics",
            "id": name,
            "image": f"{name}.png",
            "conversations": [
                {"from": "human", "value": "<image>\nHow bright?"},
                {"from": "gpt", "value": f"It is {40 * name} bright."},
            ],
        }
        for name in range(6)
    ]
    (folder / "records.json").write_text(json.dumps(records))
    source = {"records": "records.json", "roots": {"pics": "pics"}}
    (folder / "registry.json").write_text(
        json.dumps(
            {
                "format": "vita-train/registry/v1",
                "datasets": {"Pretrain_video0": {"task": "qa", "train": source}},
            }
        )
    )


def _train(
    folder: Path, output: str, settings: list[str], *flags: str
) -> subprocess.CompletedProcess[str]:
    options = [word for setting in (*SIZES, *settings) for word in ("--set", setting)]
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "vita_train.cli.main",
            "train",
            *FLAGS.split(),
            "--output_dir",
            output,
            *flags,
            *options,
        ],
        cwd=folder,
        text=True,
        capture_output=True,
        check=False,
    )


@pytest.mark.timeout(900)
def test_one_stage_after_another(tmp_path: Path) -> None:
    _world(tmp_path)
    done = _train(tmp_path, "runs/whole", ["weights={}"], "--unfreeze_vision_tower", "True")
    assert done.returncode == 0, done.stderr
    assert "run whole: stage 1.3" in done.stderr
    text, _, manifest = done.stdout.partition("\n{\n")
    assert '"stage": "1.3"' in manifest
    assert load_recipe(f"{text}\n").stages["1.3"].steps == 2
    first = read_final(open_store(str(tmp_path / "runs" / "whole")), "1.3")
    assert first is not None
    assert set(first.lineage["trained"]) == {"llm", "vision", "projector"}

    folder = "runs/whole/1.3"
    done = _train(
        tmp_path,
        "runs/again",
        [f"weights.llm={folder}", f"weights.vision={folder}"],
        "--tune_mm_mlp_adapter",
        "True",
        "--pretrain_mm_mlp_adapter",
        folder,
    )
    assert done.returncode == 0, done.stderr
    second = read_final(open_store(str(tmp_path / "runs" / "again")), "1.1")
    assert second is not None
    assert set(second.lineage["trained"]) == {"projector"}
    assert set(second.lineage["frozen"]) == {"llm", "vision"}
    assert [second.modules[name].stage for name in ("llm", "vision", "projector")] == [
        PRETRAINED,
        PRETRAINED,
        "1.1",
    ]
    assert second.modules["llm"].files == first.modules["llm"].files
    assert second.modules["projector"].files != first.modules["projector"].files
    assert second.lineage["inputs"]["projector"]["sha256"] == [
        file.sha256 for file in first.modules["projector"].files
    ]
