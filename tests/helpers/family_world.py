"""A few records of every kind of talk, and a tiny recipe for each language family that learns them
by heart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from vita_train.recipe.load import load_recipe
from vita_train.recipe.schema import Recipe

STEPS, HALF = 60, 30
#: What a family has beside the others.
SIZES = {"nemo": "head_dim: 12,", "mixtral-8x7b": "moe: {num_local_experts: 4},"}
RECIPE = """\
name: family
tokenizer: {{vocab_size: 400}}
model:
  dtype: float32
  llm: {{family: {family}, {sizes} vocab_size: 400, hidden_size: 32, num_layers: 2,
        num_heads: 4, num_kv_heads: 2,
         intermediate_size: 48, max_positions: 256, rope_theta: 10000.0}}
  vision: {{image_size: 16, patch_size: 4, hidden_size: 16, num_layers: 1, num_heads: 2,
           intermediate_size: 32}}
  audio_encoder: {{width: 16, conv_channels: 8, num_layers: 1, num_heads: 2,
                  intermediate_size: 32, dropout: 0.0,
                   dynamic_chunks: false, max_positions: 200}}
  audio_adapter: {{hidden_size: 16}}
  speech_decoder: {{width: 16, num_heads: 2}}
data: {{source: {{own: {{kind: records, registry: registry.json}}}}}}
stages:
  "2.2":
    objective: next_token
    data: {{talk: 1.0}}
    trainable: {{llm: 1.0e-2, audio_encoder: 5.0e-3, audio_adapter: 5.0e-3 {head}}}
    steps: {steps}
    checkpoint_interval: {half}
    batch: {{global_batch_size: 2, seq_len: 256}}
    eval: {{batches: 0}}
"""


def family_recipe(family: str, *overrides: str) -> Recipe:
    """Return the recipe of a family, with settings laid over it."""
    head = ", state_head: 1.0e-2" if family == "qwen2p5_fo_instruct" else ""
    return load_recipe(
        RECIPE.format(
            family=family, sizes=SIZES.get(family, ""), head=head, steps=STEPS, half=HALF
        ),
        overrides,
    )


def talk(root: Path) -> Path:
    """Write typed questions, spoken ones and audio that is not meant for the assistant; return
    their registry.

    The same records are there to train and to test on: what is asked is whether they can be learnt
    at all.
    """
    time = np.arange(8000) / 16000
    for number, pitch in enumerate((300, 700, 1500, 3000)):
        soundfile.write(
            root / f"{number}.wav",
            (0.3 * np.sin(2 * np.pi * pitch * time)).astype(np.float32),
            16000,
        )

    def record(question: str, reply: str, **fields: Any) -> dict[str, Any]:
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": reply}]
        return {"conversations": turns, **fields}

    records = [
        record("colour?", "red."),
        record("shape?", "a ring."),
        record("<audio>", "low.", audio="0.wav"),
        record("<audio>", "high.", audio="3.wav"),
        record("<audio>", "noise.", audio="1.wav", inserted_id=1),
        record("<audio>", "hum.", audio="2.wav", inserted_id=1),
    ]
    (root / "many.json").write_text(json.dumps(records * 4))
    (root / "few.json").write_text(json.dumps(records))
    splits = {
        split: {"records": f"{name}.json", "roots": {"audio": "."}}
        for split, name in (("train", "many"), ("test", "few"))
    }
    path = root / "registry.json"
    path.write_text(
        json.dumps(
            {
                "format": "vita-train/registry/v1",
                "datasets": {"talk": {"task": "speech_qa", **splits}},
            }
        )
    )
    return path
