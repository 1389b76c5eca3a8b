"""Records of a part of a video: `start` and `end` in seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.data_world import audio_file, recipe, turns, video_file, write_registry
from vita_train.data.index.corpus import Corpus
from vita_train.data.media.video import VideoInfo, video_frame_indices
from vita_train.data.prepare.run import prepare
from vita_train.recipe.data import VideoSpec

SECOND = VideoSpec(fps=1, min_frames=1, max_frames=16)


@pytest.mark.parametrize(
    ("span", "indices"),
    [
        ((None, None), list(range(0, 40, 4))),
        ((2, 5), [8, 12, 16]),
        ((2.1, None), list(range(8, 40, 4))),
        ((None, 1), [0]),
        ((9.9, 10.5), [39]),
    ],
)
def test_frames_of_a_part(span: tuple[float | None, float | None], indices: list[int]) -> None:
    steady = VideoInfo(40, 4.0, 64, 48)
    assert video_frame_indices(steady, SECOND, *span) == indices


def test_frames_of_a_part_by_time() -> None:
    times = tuple(float(n) for n in (0, 1, 2, 3, 4, 8, 12, 16))
    video = VideoInfo(7, 1.0, 64, 48, times)
    assert video_frame_indices(video, SECOND, 3, 9) == [3, 4, 4, 4, 4, 5]
    assert video_frame_indices(video, SECOND, 5, 6) == [4]


def prepared(at: Path, **fields: Any) -> Any:
    video_file(at / "films" / "f.mp4", frames=12, fps=4)
    audio_file(at / "sounds" / "s.wav")
    record = {
        "id": 1,
        "set": "films",
        "video": "f.mp4",
        "conversations": turns("<video>", "grey"),
        **fields,
    }
    plain = {"id": 2, "conversations": turns("a", "b")}
    registry = write_registry(
        at,
        {
            "look": {"train": [record, plain]},
            "talk": {"train": [plain]},
            "hear": {"train": [{"audio": "s.wav", "conversations": turns("<audio>", "b")}, plain]},
        },
    )
    spec = recipe(data={"max_reject_share": 1.0, "video": {"fps": 4, "max_frames": 16}})
    ledger = prepare(spec, registry, at / "corpus")
    hear, look, _ = ledger.splits
    assert hear.reasons == {"no audio": 1}
    return look


def test_the_frames_that_are_trained_on_are_those_of_the_part(tmp_path: Path) -> None:
    assert prepared(tmp_path, start=1, end=2.0).used == 2
    sample = Corpus.open(tmp_path / "corpus").index("look", "train").sample(0)
    assert sample.video_frame_indices == [4, 5, 6, 7]
    greys = sample.load_pixels().mean(axis=(1, 2, 3))
    assert greys == pytest.approx([90, 110, 130, 150], abs=6)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"start": 5}, "start and end"),
        ({"start": 3.0, "end": 3.5}, "start and end"),
        ({"start": 1, "end": 9}, "start and end"),
        ({"start": 2, "end": 1}, "start and end"),
        ({"start": 1, "end": 1}, "start and end"),
        ({"start": -1}, "wrong value"),
        ({"end": 0}, "wrong value"),
        ({"start": "1"}, "wrong value"),
        ({"end": True}, "wrong value"),
        ({"start": float("nan")}, "wrong value"),
        ({"end": float("inf")}, "wrong value"),
        (
            {"video": None, "set": None, "start": 1, "conversations": turns("a", "b")},
            "start and end",
        ),
    ],
)
def test_parts_that_are_none_are_rejected(
    tmp_path: Path, fields: dict[str, Any], reason: str
) -> None:
    look = prepared(tmp_path, **fields)
    assert look.reasons == {reason: 1}
    rejects = map(json.loads, (tmp_path / "corpus" / "rejects.jsonl").read_text().splitlines())
    assert [each["id"] for each in rejects if each["dataset"] == "look"] == ["1"]
