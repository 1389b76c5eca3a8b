"""A corpus of a few real files, written by the tests themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from PIL import Image

from tests.helpers.no_source import NO_SOURCE
from vita_train.recipe.schema import Recipe

RATE = 16000


def image_file(path: Path, width: int = 40, height: int = 30, seed: int = 0) -> Path:
    """Write a JPEG of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=90)
    return path


def audio_file(path: Path, seconds: float = 0.5, rate: int = RATE, seed: int = 0) -> Path:
    """Write a WAV of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = np.random.default_rng(seed).uniform(-0.3, 0.3, int(seconds * rate))
    soundfile.write(path, wave.astype(np.float32), rate)
    return path


def video_file(path: Path, frames: int = 8, fps: int = 4) -> Path:
    """Write an MP4 whose frame k is grey level 10 + 20 k."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            pixels = np.full((48, 64, 3), 10 + 20 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def recipe(**changes: Any) -> Recipe:
    """A recipe of small sizes; ``changes`` replace top-level sections."""
    value: dict[str, Any] = {
        "name": "test",
        "tokenizer": {"vocab_size": 400},
        "model": {
            "dtype": "float32",
            "llm": {"vocab_size": 512, "hidden_size": 64, "num_heads": 4, "max_positions": 512},
            "vision": {"image_size": 32, "patch_size": 8},
            "speech_decoder": {"width": 64},
        },
        "data": {**NO_SOURCE, "image": {"max_tiles": 4}, "video": {"max_frames": 4}},
        "stages": {
            "1.3": {
                "objective": "next_token",
                "data": {"look": 1.0, "talk": 0.5},
                "trainable": {"llm": 1e-3},
                "steps": 2,
                "batch": {"global_batch_size": 4, "seq_len": 128},
            },
            "2.1a": {
                "objective": "ctc",
                "data": {"hear": 1.0},
                "trainable": {"ctc_head": 1e-3},
                "steps": 2,
            },
        },
    }
    value |= changes
    return Recipe.model_validate({**value, "data": {**NO_SOURCE, **value["data"]}})


def turns(*texts: str) -> list[dict[str, str]]:
    """Turns of human and gpt in alternation."""
    return [
        {"from": "human" if place % 2 == 0 else "gpt", "value": text}
        for place, text in enumerate(texts)
    ]


#: Task kinds of datasets; all others answer questions.
TASKS = {"hear": "asr", "talk": "dialogue"}


def write_registry(at: Path, datasets: dict[str, dict[str, list[Any]]]) -> Path:
    """Write record files and a registry over the media below ``at``."""
    value: dict[str, Any] = {"format": "vita-train/registry/v1", "datasets": {}}
    for name, splits in datasets.items():
        for split, records in splits.items():
            (at / f"{name}-{split}.json").write_text(json.dumps(records))
            source = {
                "records": f"{name}-{split}.json",
                "roots": {"pics": "pics", "audio": "sounds", "films": "films"},
            }
            value["datasets"].setdefault(name, {"task": TASKS.get(name, "qa")})[split] = source
    path = at / "registry.json"
    path.write_text(json.dumps(value))
    return path


def small_world(at: Path, records: int = 12) -> Path:
    """Write datasets look (images), talk (text) and hear (speech), and return their registry."""
    look, talk, hear = [], [], []
    colours = ["red", "green", "blue", "yellow"]
    for number in range(records):
        colour = colours[number % 4]
        image_file(at / "pics" / f"p{number}.jpg", 30 + 10 * (number % 3), 30, seed=number)
        audio_file(at / "sounds" / f"s{number}.wav", 0.8 + 0.05 * (number % 4), seed=number)
        look.append(
            {
                "id": f"look-{number}",
                "set": "pics",
                "image": f"p{number}.jpg",
                "conversations": turns("<image>\nwhat colour is it?", f"it is {colour}."),
            }
        )
        talk.append(
            {
                "id": f"talk-{number}",
                "conversations": turns(f"say {colour}", colour, "again", colour),
            }
        )
        hear.append(
            {
                "id": f"hear-{number}",
                "audio": [f"s{number}.wav"],
                "conversations": turns("<audio>\nwrite it down.", f"the {colour} one"),
            }
        )
    video_file(at / "films" / "f.mp4")
    look.append(
        {
            "id": "film",
            "set": "films",
            "video": "f.mp4",
            "conversations": turns("<video>\nwhat happens?", "it is grey."),
        }
    )
    return write_registry(
        at,
        {
            "look": {"train": look, "dev": look[:3]},
            "talk": {"train": talk},
            "hear": {"train": hear, "test": hear[:2]},
        },
    )
