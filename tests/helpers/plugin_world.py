"""A package from outside with a plugin, and a user's records in names of their own; nothing of
vita_train changes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

_DECLARED = '''
from typing import Literal

from vita_train.recipe.base import Strict
from vita_train.recipe.objectives import Measure, ObjectiveSpec, register_objective
from vita_train.recipe.sources import SourceKind, register_source
from vita_train.recipe.tasks import TaskKind, register_task_kind


class WordsSource(Strict):
    """Words to be written backwards."""

    kind: Literal["words"] = "words"
    words: tuple[str, ...]


register_source(SourceKind(WordsSource, "reversing.work:build_words"))
register_task_kind(TaskKind("reverse", "a word written backwards",
                            measures=(Measure("reversing.work:letters", (), ("letters",)),)))
register_objective(ObjectiveSpec("louder_tokens", "reversing.work:LouderTokens",
                                 reads="tokens", modules=("llm",),
                                 packs=True, measures_replies=True))
'''
_WORK = '''
import json

from vita_train.data.sources.registry import Dataset, Registry, SplitSource
from vita_train.evaluation.measures import written
from vita_train.training.objectives.base import LossOutput
from vita_train.training.objectives.next_token import NextTokenObjective


def build_words(source, out, *, seed, workers):
    splits = {}
    for split in ("train", "dev", "test"):
        rows = [{"id": f"{split}-{word}", "conversations": [
                    {"from": "human", "value": f"reverse {word}"},
                                                            {"from": "gpt", "value": word[::-1]}]}
                for word in source.words]
        (out / f"{split}.json").write_text(json.dumps(rows))
        splits[split] = SplitSource(records=f"{split}.json")
    return Registry(datasets={"backwards": Dataset(task="reverse", splits=splits)})


def letters(context, samples):
    replies = written(context, samples)
    hits = [sorted(reply) == sorted(sample.text) for reply, sample in zip(replies, samples)]
    return {"letters": sum(hits) / len(hits)}


class LouderTokens(NextTokenObjective):
    """Twice the loss."""

    def forward(self, batch, phase="main"):
        output = super().forward(batch, phase)
        return LossOutput(output.loss_sum * 2, output.count, output.metrics)
'''


def write_plugin(at: Path) -> Path:
    """Write an installed package with a plugin and return the folder to put on ``PYTHONPATH``."""
    return write_package(at, "reversing", declared=_DECLARED, work=_WORK)


def write_package(at: Path, name: str, **modules: str) -> Path:
    """Write an installed package whose module ``declared`` is a plugin; return the folder to put on
    ``PYTHONPATH``."""
    package, info = at / name, at / f"{name}-1.0.dist-info"
    package.mkdir(parents=True)
    info.mkdir()
    for module, text in {"__init__": "", **modules}.items():
        (package / f"{module}.py").write_text(text)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[vita_train.plugins]\n{name} = {name}.declared\n")
    return at


def with_plugin(at: Path) -> dict[str, str]:
    """Return this process's environment with a folder of plugins on ``PYTHONPATH``."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(at), os.environ.get("PYTHONPATH", "")]),
    }


def write_records(at: Path, number: int = 8) -> tuple[Path, Path]:
    """Write two registries of a user: images of goods with questions, and calls with what was said
    in them."""
    shop, calls = at / "shop", at / "calls"
    shop.mkdir(parents=True)
    calls.mkdir()
    goods: list[dict[str, Any]] = []
    said: list[dict[str, Any]] = []
    for item in range(number):
        Image.fromarray(np.full((40, 40, 3), 20 * item, np.uint8)).save(shop / f"{item}.png")
        goods.append(
            {
                "id": f"g{item}",
                "set": "photos",
                "image": f"{item}.png",
                "conversations": _turns("<image>\nhow dark?", f"shade {item}."),
            }
        )
        time = np.arange(16000) / 16000
        soundfile.write(
            calls / f"{item}.wav", 0.3 * np.sin(2 * np.pi * (200 + 40 * item) * time), 16000
        )
        said.append(
            {
                "id": f"c{item}",
                "audio": [f"{item}.wav"],
                "conversations": _turns("<audio>\nwrite it down.", f"call number {item}"),
            }
        )
    return (
        _registry(shop, "goods", "qa", goods, {"photos": "."}),
        _registry(calls, "hotline", "asr", said, {"audio": "."}),
    )


def _registry(
    at: Path, name: str, task: str, records: list[dict[str, Any]], roots: dict[str, str]
) -> Path:
    (at / "records.json").write_text(json.dumps(records))
    splits = {
        split: {"records": "records.json", "roots": roots} for split in ("train", "dev", "test")
    }
    path = at / "registry.json"
    path.write_text(
        json.dumps(
            {"format": "vita-train/registry/v1", "datasets": {name: {"task": task, **splits}}}
        )
    )
    return path


def _turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
