"""The data commands of docs/your-data.md run as they stand there, one after the other, in a folder
with files of the names that the page uses."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tests.helpers.data_world import audio_file, image_file, recipe, turns
from vita_train.cli.main import build_app
from vita_train.data.prepare.tokenizer import train_tokenizer

PAGE = Path(__file__).resolve().parents[2] / "docs" / "your-data.md"
#: Needs the weights of a run that has learnt to listen; tests/unit/evaluation/test_run.py opens
#: such a recogniser.
LEFT_OUT = "speak"


def commands() -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line)[1:] for line in lines if line.startswith("vita-train data ")]
    return [found for found in words if found[1] != LEFT_OUT]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a reader of the page has: photographs, recordings, records, a public configuration."""
    for number in range(6):
        for place in ("photos", "images", "originals"):
            image_file(tmp_path / place / f"{number}.jpg", 60 + number, seed=number)
        (tmp_path / "photos" / f"{number}.txt").write_text(f"Photograph {number}.")
        for place in ("recordings", "clips"):
            path = audio_file(tmp_path / place / f"s{number}" / f"{number}.wav", 0.3, seed=number)
            path.with_suffix(".txt").write_text(f"Sentence {number}.")
    image_file(tmp_path / "images" / "new.jpg", seed=7)
    rows = "".join(f"s{number}/{number}.wav\tsentence {number}\n" for number in range(6))
    (tmp_path / "train.tsv").write_text("audio\ttext\n" + rows)

    def write(name: str, records: list[dict[str, Any]]) -> None:
        (tmp_path / name).write_text(json.dumps(records))

    def asked(number: int, **media: Any) -> dict[str, Any]:
        (kind,) = (name for name in media if name != "set")
        words = turns(f"<{kind}>\nWhich one?", f"Number {number}.")
        return {"id": f"{kind}-{number}", **media, "conversations": words}

    seen = [asked(number, set="photos", image=f"{number}.jpg") for number in range(6)]
    write("shop-train.json", seen)
    write("shop-test.json", [asked(9, set="photos", image="new.jpg")])
    write("hotline.json", [asked(number, audio=f"s{number}/{number}.wav") for number in range(6)])
    write("train.json", [asked(number, image=f"{number}.jpg") for number in range(6)])
    registry, _, _ = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "registry.yaml").write_text(registry)
    settings = recipe().model_dump(mode="json")
    settings["data"]["source"] = {"mine": {"kind": "records", "registry": "registry.yaml"}}
    settings["stages"] = {
        "answers": {
            "objective": "next_token",
            "data": {"shop": 1.0},
            "trainable": {"llm": 1e-3},
            "steps": 1,
        }
    }
    train_tokenizer(["Which one? Number 3."] * 20, 420, tmp_path / "tokenizer")
    settings["tokenizer"] = {"source": str(tmp_path / "tokenizer"), "vocab_size": 420}
    (tmp_path / "shop.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "vita" / "config").mkdir(parents=True)
    (tmp_path / "vita" / "config" / "dataset_config.py").write_text(
        'Mine = {"chat_path": "shop-train.json", "photos": "images"}\n'
    )
    (tmp_path / "vita" / "config" / "__init__.py").write_text(
        'from .dataset_config import *\nDataConfig = {"Pretrain_video0": [Mine]}\n'
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_does_what_it_says(folder: Path) -> None:
    app, made = build_app(), CliRunner()
    for words in commands():
        if words[1:3] == ["records", "clips"]:
            (folder / "speech").rename(folder / "speech-of-recordings")  # as the line before made
        if words[1] == "import-config":
            (folder / "registry.yaml").rename(folder / "mine.yaml")
        if words[1:3] == ["count", "registry.yaml"] and "prepared" in words:
            prepare = ["data", "prepare", "shop.yaml", "registry.yaml", "prepared"]
            assert made.invoke(app, prepare).exit_code == 0
        if words[1] == "concat":  # whose recipe names a tokenizer of the hub
            words += ["--recipe", "shop.yaml"]
        result = made.invoke(app, words, catch_exceptions=False)
        assert result.exit_code == 0, f"{' '.join(words)}: {result.output}"
        if words[1] == "import-config":
            (folder / "mine.yaml").rename(folder / "registry.yaml")
    for name in ("photos/recipe.yaml", "speech/registry.yaml", "check.html", "counts.html"):
        assert (folder / name).is_file(), name
    assert len(list((folder / "media").glob("*.jpg"))) == 6
    assert json.loads((folder / "clean.json").read_text()) == json.loads(
        (folder / "train.json").read_text()
    )
