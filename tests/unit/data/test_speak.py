"""Typed questions become spoken ones: nothing is lost, nothing is heard wrong without a word."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.helpers.data_world import image_file, turns
from tests.helpers.errors import raises_code
from vita_train.data.check.targets import open_target
from vita_train.data.sources.reading import Row, read_records
from vita_train.data.sources.registry import load_registry
from vita_train.data.speak import RATE, SpeakSettings, Spoken, speak_records
from vita_train.errors import DataError, UserError


def hum(text: str, *, voice: str, speed: float) -> tuple[np.ndarray, int]:
    """A tone of a tenth of a second a letter; some texts make it fail."""
    if text == "crash":
        raise RuntimeError("out of breath")
    if text == "nothing":
        return np.zeros(800, np.float32), 8000
    seconds = len(text) / 10 / speed
    tone = {"low": 200, "high": 400}.get(voice, 300)
    wave = 0.5 * np.sin(2 * np.pi * tone * np.arange(int(8000 * seconds)) / 8000)
    return (wave * 32767).astype(np.int16), 8000


@pytest.fixture
def world(tmp_path: Path) -> Path:
    image_file(tmp_path / "pics" / "a.jpg")
    rows: list[Any] = [
        {"id": "plain", "conversations": turns("two plus two?", "four.", "and three?", "seven.")},
        {"id": "seen", "set": "pics", "image": "a.jpg",
         "conversations": turns("<image>\nwhat is it?", "a mug.")},
        {"id": "mute", "set": "pics", "image": "a.jpg",
         "conversations": turns("<image>", "a mug.")},
        {"id": "ill", "conversations": turns("crash", "no.")},
        {"id": "still", "conversations": turns("nothing", "no.")},
        {"id": "long", "conversations": turns("a" * 400, "no.")},
        {"id": "broken", "conversations": turns("one")},
    ]  # fmt: skip
    (tmp_path / "typed.json").write_text(json.dumps(rows))
    return tmp_path


def spoken(world: Path, out: Path, judge: Any = None, **settings: Any) -> Spoken:
    (source,) = open_target(world / "typed.json", roots=[f"pics={world / 'pics'}"])
    return speak_records(source, out, hum, SpeakSettings(**settings), judge)


def test_questions_become_recordings_and_all_else_stays(world: Path) -> None:
    out = world / "out"
    found = spoken(world, out)
    assert (found.records, found.questions) == (2, 3)
    assert sum(found.reasons.values()) + found.records == 7
    assert {"nothing to say", "synthesiser failed", "no sound", "too long"} < set(found.reasons)
    registry = load_registry(out / "registry.yaml")
    ((dataset, declared),) = registry.datasets.items()
    assert declared.task == "speech_qa"
    roots = {key: Path(root) for key, root in declared.splits["train"].roots.items()}
    rows = list(read_records(out / "records.jsonl", {**roots, "audio": out / "speech"}))
    assert all(isinstance(row, Row) for row in rows)
    plain, seen = (row for row in rows if isinstance(row, Row))
    assert [turn.value for turn in plain.record.conversations] == [
        "<audio>", "four.", "<audio>", "seven."
    ]  # fmt: skip
    assert seen.record.conversations[0].value == "<image>\n<audio>"
    assert seen.images[0].path(roots).is_file()
    wave, rate = soundfile.read(plain.audios[0].path({"audio": out / "speech"}))
    assert rate == RATE
    assert len(wave) == pytest.approx(len("two plus two?") / 10 * RATE, rel=0.01)
    rejects = [json.loads(line) for line in (out / "rejects.jsonl").read_text().splitlines()]
    assert {reject["id"] for reject in rejects} >= {"mute", "ill", "still", "long"}
    assert dataset == "typed"


def test_voice_and_speed_follow_from_seed_and_id(world: Path) -> None:
    def sounds(name: str, seed: int) -> list[bytes]:
        spoken(world, world / name, voices=("low", "high"), speeds=(1.0, 1.5), seed=seed)
        return [path.read_bytes() for path in sorted((world / name / "speech").rglob("*.flac"))]

    first = sounds("a", 0)
    assert first == sounds("b", 0)
    assert any(first != sounds(f"c{seed}", seed) for seed in (1, 2, 3))


def test_what_the_recogniser_does_not_understand_is_rejected(world: Path) -> None:
    def judge(waves: Sequence[np.ndarray], texts: Sequence[str]) -> list[float]:
        assert all(wave.dtype == np.float32 for wave in waves)
        return [0.5 if text == "and three?" else 0.0 for text in texts]

    found = spoken(world, world / "out", judge)
    assert found.reasons["not understood"] == 1
    assert found.records == 1
    kept = spoken(world, world / "other", judge, max_error=0.5)
    assert kept.records == 2


def test_a_folder_that_holds_something_and_records_that_cannot_be_spoken(world: Path) -> None:
    spoken(world, world / "out")
    with raises_code(UserError, "VT-USE-231", str(world / "out")):
        spoken(world, world / "out")
    (world / "typed.json").write_text(
        json.dumps([{"id": "x", "conversations": turns("crash", "x")}])
    )
    with raises_code(DataError, "VT-DATA-084", "synthesiser failed"):
        spoken(world, world / "none")
