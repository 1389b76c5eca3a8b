"""A run directory as the steps leave it, with invented numbers: what the report is tested on."""

from __future__ import annotations

import hashlib
import io
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml
from PIL import Image, ImageDraw

from vita_train.recipe.load import load_recipe
from vita_train.runs.final import write_final
from vita_train.runs.manifest import Manifest, ModuleRef
from vita_train.storage.base import FileRef
from vita_train.storage.factory import open_store

COUNTS = {
    "llm": 3_290_000,
    "vision": 812_000,
    "projector": 205_000,
    "audio_encoder": 1_720_000,
    "ctc_head": 78_000,
    "audio_adapter": 251_000,
    "codec": 2_510_000,
    "discriminators": 640_000,
    "speech_decoder": 5_120_000,
}
USES = {
    "1.1": ("llm", "vision"),
    "2.1b": ("llm", "audio_encoder"),
    "3.1": (),
    "3.2": ("llm", "codec"),
}
METRICS: dict[str, dict[str, float]] = {
    "0.llm": {
        "textqa.test.accuracy": 0.871,
        "instruct.test.accuracy": 0.942,
        "textqa.test.loss": 0.112,
    },
    "0.vision": {"dev.precision": 0.962},
    "1.1": {"caption.test_seen.attributes": 0.832},
    "1.2": {
        "caption.test_seen.attributes": 0.913,
        "textqa.test.accuracy": 0.865,
        "instruct.test.accuracy": 0.951,
    },
    "1.3": {
        "vqa.test_seen.accuracy": 0.801,
        "vqa.test_unseen.accuracy": 0.623,
        "textqa.test.accuracy": 0.858,
        "caption.test_seen.attributes": 0.915,
        "instruct.test.accuracy": 0.948,
    },
    "2.1a": {"asr.test_sentences.wer": 0.021, "asr.test_voices.wer": 0.034},
    "2.1b": {"asr.test_sentences.llm_wer": 0.112, "dev.accuracy": 0.741},
    "2.2": {
        "speech_qa.test.accuracy": 0.793,
        "speech_qa.test_typed.accuracy": 0.852,
        "speech_qa.test.state_mark": 0.99,
        "negative.test.state_mark": 0.985,
        "vqa.test_seen.accuracy": 0.785,
        "vqa.test_unseen.accuracy": 0.63,
        "textqa.test.accuracy": 0.862,
        "caption.test_seen.attributes": 0.921,
        "asr.test_sentences.wer": 0.038,
        "asr.test_voices.wer": 0.037,
        "asr.test_sentences.llm_wer": 0.085,
        "instruct.test.accuracy": 0.944,
    },
    "3.1": {
        "tts.test.mel_distance": 0.391,
        "tts.test.codes_used": 803.0,
        "tts.test.perplexity": 512.0,
        "tts.test.wer_original": 0.012,
        "tts.test.wer_resynthesis": 0.019,
    },
    "3.2": {"speech.test.wer": 0.214},
}


def fabricate_run(
    root: Path, *, until: str | None = None, fails: str | None = None, text: str = ""
) -> Path:
    """Write a run of the tiny recipe.

    Args:
        root: a directory; the run is made in it.
        until: last stage that is there; None for all of them, evaluation included.
        fails: stage that failed after some steps; nothing after it is there.
        text: put into every free text, to see what a hostile one does.
    """
    run = root / "tiny-demo"
    run.mkdir(parents=True)
    recipe = load_recipe("tiny")
    (run / "recipe.yaml").write_text(
        yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
    )
    _ledger(run, text)
    trained: dict[str, ModuleRef] = {}
    clock = 1_800_000_000.0
    for name, spec in recipe.stages.items():
        steps = spec.steps or 100
        clock = _events(run / name, steps if name != fails else steps // 3, steps, clock, name)
        if name == fails:
            (run / name / "progress.json").write_text(
                json.dumps({"state": "failed", "step": steps // 3, "steps": steps})
            )
            (run / name / "logs").mkdir()
            (run / name / "logs" / "rank-0.error.json").write_text(
                json.dumps(
                    {
                        "code": 1,
                        "what": f"the loss is not a number{text}",
                        "where": "step 266",
                        "remedy": "lower the rate",
                    }
                )
            )
            (run / name / "logs" / "rank-0.log").write_text(
                f"step {steps // 3}: loss nan\nsamples vqa/17 vqa/311 {text}\n"
            )
            return run
        (run / name / "progress.json").write_text(
            json.dumps({"state": "done", "step": steps, "steps": steps})
        )
        for module in spec.trainable:
            data = f"{name}/{module}".encode()
            trained[module] = ModuleRef(
                stage=name,
                files=(
                    FileRef(
                        uri=str(run / name / "final" / "a1" / f"{module}.safetensors"),
                        sha256=hashlib.sha256(data).hexdigest(),
                        bytes=4 * COUNTS[module],
                    ),
                ),
            )
        used = [
            module
            for module in trained
            if module in USES.get(name, ()) and module not in spec.trainable
        ]
        write_final(
            open_store(str(run)),
            name,
            Manifest(
                kind="model",
                run=run.name,
                stage=name,
                digest=hashlib.sha256(name.encode()).hexdigest(),
                modules=dict(trained),
                metrics=METRICS[name],
                lineage={
                    "recipe": "5f2c91d07a",
                    "code": "0.1.0",
                    "trained": {m: COUNTS[m] for m in spec.trainable},
                    "frozen": {m: COUNTS[m] for m in used},
                    "samples": f"0..{steps * spec.batch.global_batch_size} {text}",
                },
            ),
        )
        if name == until:
            return run
    _evaluation(run, text)
    return run


def _events(folder: Path, logged: int, steps: int, clock: float, name: str) -> float:
    rng = random.Random(name)
    folder.mkdir()
    start, floor = rng.uniform(3.0, 7.0), rng.uniform(0.08, 0.6)
    with (folder / "events.jsonl").open("w") as file:
        for step in range(10, logged + 1, 10):
            share = step / steps
            loss = (
                floor
                + (start - floor) * math.exp(-6 * share) * rng.uniform(0.8, 1.2)
                + rng.uniform(0, 0.05)
            )
            rate = min(1.0, share / 0.03) * 0.5 * (1 + math.cos(math.pi * share))
            event: dict[str, Any] = {
                "time": clock,
                "step": step,
                "steps": steps,
                "loss": loss,
                "lr_factor": rate,
                "tokens_per_s": rng.uniform(6500, 7500),
                "memory_gib": 1.21,
            }
            if step % (steps // 10 // 10 * 10 or 10) == 0:
                event["dev.loss"] = loss * 1.08
            file.write(json.dumps(event) + "\n")
            clock += 1.1
    return clock


def _ledger(run: Path, text: str) -> None:
    splits: list[dict[str, Any]] = []
    for index, name in enumerate(("caption", "textqa", "vqa", "asr", "speech_qa", "tts")):
        reasons = {f"empty file {text}": 2, "too long": 1} if name == "asr" else {}
        records = 4000 + 313 * index
        splits += [
            {
                "dataset": name,
                "split": "train",
                "records": records,
                "used": records - sum(reasons.values()),
                "rejected": sum(reasons.values()),
                "reasons": reasons,
            },
            {"dataset": name, "split": "test", "records": 400, "used": 400, "rejected": 0},
        ]
    folder = run / "prepare" / "corpus"
    folder.mkdir(parents=True)
    (folder / "ledger.json").write_text(
        json.dumps({"format": "vita-train/ledger/v1", "splits": splits})
    )


def _evaluation(run: Path, text: str) -> None:
    media = run / "evaluate" / "media"
    media.mkdir(parents=True)
    samples: list[dict[str, Any]] = []
    for index, (shape, colour, right) in enumerate(
        (
            ("circle", "red", True),
            ("square", "green", True),
            ("triangle", "blue", False),
            ("circle", "gold", True),
        )
    ):
        path = f"media/picture-{index}.png"
        (run / "evaluate" / path).write_bytes(_image(shape, colour))
        samples.append(
            {
                "dataset": "vqa",
                "slice": "test_seen",
                "media": [{"kind": "image", "path": path}],
                "question": f"What colour is the {shape}? {text}",
                "answer": colour if right else "purple",
                "truth": f"{colour} {text}",
                "right": right,
            }
        )
    for index in range(3):
        paths = [f"media/spoken-{index}-{part}.wav" for part in ("question", "answer")]
        for offset, path in enumerate(paths):
            (run / "evaluate" / path).write_bytes(_audio(1.4 + 0.5 * index + offset))
        samples.append(
            {
                "title": f"Spoken question {text}",
                "dataset": "speech_qa",
                "slice": "test",
                "media": [
                    {"kind": "audio", "path": paths[0], "label": f"question {text}"},
                    {"kind": "audio", "path": paths[1], "label": "the model's spoken answer"},
                ],
                "question": "Is the small circle to the left of the red square?",
                "answer": f"Yes, it is to the left. {text}",
                "truth": "Yes, it is to the left.",
                "right": True,
            }
        )
    for index in range(4):
        samples.append(
            {
                "dataset": "textqa",
                "slice": "test",
                "media": [],
                "right": index != 2,
                "question": "There is a large red circle and a small blue square. Which one is "
                "small?",
                "answer": "The blue square." if index != 2 else "The red circle.",
                "truth": "The blue square.",
            }
        )
    (run / "evaluate" / "samples.json").write_text(
        json.dumps({"format": "vita-train/samples/v1", "samples": samples})
    )
    metrics = {name: value for stage in METRICS.values() for name, value in stage.items()}
    write_final(
        open_store(str(run)),
        "evaluate",
        Manifest(
            kind="evaluation", run=run.name, stage="evaluate", digest="0" * 64, metrics=metrics
        ),
    )


def _image(shape: str, colour: str) -> bytes:
    picture = Image.new("RGB", (64, 64), "white")
    draw = ImageDraw.Draw(picture)
    if shape == "circle":
        draw.ellipse((14, 14, 50, 50), fill=colour)
    elif shape == "square":
        draw.rectangle((14, 14, 50, 50), fill=colour)
    else:
        draw.polygon(((32, 12), (52, 52), (12, 52)), fill=colour)
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def _audio(seconds: float) -> bytes:
    time = np.arange(int(16000 * seconds)) / 16000
    wave = (
        0.4
        * np.sin(2 * np.pi * 180 * time)
        * np.abs(np.sin(2 * np.pi * 1.7 * time))
        * np.exp(-0.6 * time)
    )
    out = io.BytesIO()
    soundfile.write(out, wave, 16000, format="WAV", subtype="PCM_16")
    return out.getvalue()
