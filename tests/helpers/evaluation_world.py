"""A small prepared corpus and a small model with every module, untrained: what the evaluation is
tested on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image
from torch import nn

from tests.helpers.no_source import NO_SOURCE
from vita_train.data.index.corpus import Corpus
from vita_train.data.prepare.run import prepare
from vita_train.models.build import build_modules
from vita_train.recipe.modules import MODULES
from vita_train.recipe.schema import Recipe

COLOURS = ("red", "green", "blue", "yellow", "black", "white", "cyan", "pink")
RATE = 16000

#: Task kinds of the datasets that are not called after theirs.
TASKS = {"textqa": "qa"}


def small_recipe(**changes: Any) -> Recipe:
    """A ladder of the tiny model's architecture in smaller sizes."""
    value: dict[str, Any] = {
        "name": "small",
        "tokenizer": {"vocab_size": 400},
        "model": {
            "dtype": "float32",
            "llm": {
                "vocab_size": 400,
                "hidden_size": 32,
                "num_layers": 2,
                "num_heads": 4,
                "num_kv_heads": 2,
                "intermediate_size": 64,
                "max_positions": 256,
                "rope_theta": 10000.0,
                "tie_embeddings": True,
            },
            "vision": {
                "image_size": 32,
                "patch_size": 8,
                "hidden_size": 32,
                "num_layers": 1,
                "num_heads": 2,
                "intermediate_size": 64,
                "drop_path": 0.0,
            },
            "audio_encoder": {
                "width": 32,
                "num_layers": 1,
                "num_heads": 2,
                "intermediate_size": 64,
                "relative_shift": True,
                "max_positions": 200,
            },
            "ctc_head": {"vocab": "word"},
            "audio_adapter": {"hidden_size": 32},
            "codec": {
                "kind": "spectral",
                "sample_rate": RATE,
                "hop_length": 400,
                "channels": 32,
                "num_blocks": 1,
                "codebook_size": 64,
                "code_dim": 16,
                "quantizer": "ema",
                "num_global_tokens": 2,
                "global_dim": 16,
                "segment": 4000,
            },
            "speech_decoder": {
                "width": 32,
                "nar_layers": 1,
                "ar_layers": 1,
                "num_heads": 2,
                "intermediate_size": 64,
                "max_positions": 256,
                "max_codes": 20,
            },
        },
        "data": {**NO_SOURCE, "image": {"max_tiles": 1}},
        "stages": {
            "0.llm": _stage("next_token", {"textqa": 1.0}, "llm"),
            "1.1": _stage("next_token", {"caption": 1.0}, "projector"),
            "1.2": _stage(
                "next_token", {"caption": 1.0, "textqa": 0.3}, "llm", "projector", "vision"
            ),
            "2.1a": _stage("ctc", {"asr": 1.0}, "audio_encoder", "ctc_head"),
            "2.1b": _stage("next_token", {"asr": 1.0}, "audio_adapter"),
            "2.2": _stage(
                "next_token", {"speech_qa": 1.0, "negative": 1.0}, "llm", "audio_encoder"
            ),
            "3.1": _stage("codec", {"tts": 1.0}, "codec"),
            "3.2": _stage("speech_tokens", {"tts": 1.0}, "speech_decoder"),
        },
    }
    value |= changes
    return Recipe.model_validate({**value, "data": {**NO_SOURCE, **value["data"]}})


def _stage(objective: str, data: dict[str, float], *trainable: str) -> dict[str, Any]:
    return {
        "objective": objective,
        "data": data,
        "trainable": dict.fromkeys(trainable, 1e-3),
        "steps": 1,
    }


def small_corpus(at: Path, recipe: Recipe, records: int = 24) -> Corpus:
    """Write records with real images and sounds, and prepare them."""
    (at / "pictures").mkdir(parents=True)
    (at / "sounds").mkdir()
    rows: dict[str, list[Any]] = {
        name: [] for name in ("textqa", "caption", "asr", "speech_qa", "typed", "negative", "tts")
    }
    for number in range(records):
        colour = COLOURS[number % len(COLOURS)]
        shade = np.full((32, 32, 3), 20 + 9 * number, np.uint8)
        Image.fromarray(shade).save(at / "pictures" / f"{number}.png")
        time = np.arange(int(RATE * (0.4 + 0.02 * number))) / RATE
        soundfile.write(
            at / "sounds" / f"{number}.wav",
            0.3 * np.sin(2 * np.pi * (200 + 30 * number) * time),
            RATE,
        )
        sound, question = [f"{number}.wav"], f"which colour is number {number}?"
        rows["textqa"].append(_record(question, f"{colour}.", "and then?", f"still {colour}."))
        rows["caption"].append(
            {
                **_record("<image>\ndescribe it.", f"a {colour} square on the left."),
                "set": "pictures",
                "image": f"{number}.png",
            }
        )
        rows["asr"].append(
            {**_record("<audio>\ntranscribe it.", f"the {colour} one"), "audio": sound}
        )
        rows["speech_qa"].append({**_record("<audio>", f"{colour}."), "audio": sound})
        rows["typed"].append(_record(question, f"{colour}."))
        rows["negative"].append(
            {**_record("<audio>", "not for me."), "audio": sound, "inserted_id": 1}
        )
        rows["tts"].append(
            {**_record("<audio>\ntranscribe it.", f"say {colour} now"), "audio": sound}
        )
    typed = rows.pop("typed")
    splits = {name: {"train": found, "dev": found, "test": found} for name, found in rows.items()}
    splits["speech_qa"]["test_typed"] = typed
    datasets: dict[str, Any] = {}
    for name, parts in splits.items():
        for split, found in parts.items():
            (at / f"{name}-{split}.json").write_text(json.dumps(found))
            datasets.setdefault(name, {"task": TASKS.get(name, name)})[split] = {
                "records": f"{name}-{split}.json",
                "roots": {"pictures": "pictures", "audio": "sounds"},
            }
    (at / "registry.json").write_text(
        json.dumps({"format": "vita-train/registry/v1", "datasets": datasets})
    )
    prepare(recipe, at / "registry.json", at / "corpus", workers=1, progress=lambda line: None)
    return Corpus.open(at / "corpus")


def _record(*texts: str) -> dict[str, Any]:
    return {
        "conversations": [
            {"from": "human" if place % 2 == 0 else "gpt", "value": text}
            for place, text in enumerate(texts)
        ]
    }


def small_model(recipe: Recipe, corpus: Corpus) -> nn.ModuleDict:
    """Every module with its first weights, the language model's made larger so that replies
    differ."""
    modules = build_modules(
        recipe.model, MODULES, ctc_vocab_size=len(corpus.ctc_vocab), seed=recipe.seed
    )
    with torch.no_grad():
        for parameter in modules["llm"].parameters():
            if parameter.dim() > 1:
                parameter *= 4
    return modules.eval()
