"""The public tools under their names: exit 0 clean, 1 problems, 2 wrong usage; inputs stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image
from typer.testing import CliRunner

from tests.helpers.data_world import audio_file, image_file, small_world, turns, video_file
from vita_train.cli.main import build_app
from vita_train.data.prepare.tokenizer import train_tokenizer
from vita_train.errors import UserError


def run(*words: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(build_app(), ["data", "tools", *map(str, words)])
    if isinstance(result.exception, UserError):
        return result.exception.exit_code, str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.fixture
def files(tmp_path: Path) -> Path:
    image_file(tmp_path / "m" / "a.jpg")
    (tmp_path / "m" / "b.jpg").write_bytes(b"none")
    audio_file(tmp_path / "m" / "long.wav", 1.0)
    audio_file(tmp_path / "m" / "short.wav", 0.2)
    rows: list[Any] = [
        {"id": 0, "image": "a.jpg", "conversations": turns("<image>", "x")},
        {"id": 1, "image": "b.jpg", "conversations": turns("<image>", "x")},
        {"id": 2, "audio": "long.wav", "conversations": turns("<audio>", "x", "y", "z")},
        {
            "id": 3,
            "audio": ["short.wav", "long.wav"],
            "inserted_id": 3,
            "conversations": turns("<audio>", "x", "<audio>", "z"),
        },
        {"id": 4, "model": "gpt", "conversations": turns("a", "b")},
    ]
    (tmp_path / "r.json").write_text(json.dumps(rows))
    return tmp_path


def test_structure_and_everything(files: Path) -> None:
    path = files / "r.json"
    assert run("check_json", "--data_path", path)[0] == 0
    assert run("check_json", "--data_path", path, "--adapter", "strict")[0] == 1
    assert run("validate_dataset", "--dataset_path", path, "--root", files / "m")[0] == 0
    code, told = run(
        "validate_dataset", "--dataset_path", path, "--root", files / "m", "--check_images",
        "--check_audio",
    )  # fmt: skip
    assert code == 1
    assert '"unreadable image": 1' in told
    assert run("check_json", "--data_path", files / "nothing.json")[0] == 2
    assert run("check_json")[0] == 2


def test_lost_files_are_listed_and_their_records_taken_out(files: Path) -> None:
    before = (files / "r.json").read_bytes()
    lists = {kind: files / f"{kind}.jsonl" for kind in ("image", "audio")}
    for kind, path in lists.items():
        words = [f"check_{kind}_lost", "--data_path", files / "r.json"]
        assert run(*words, "--root", files / "m", "--output", path)[0] == 1
    lost = {
        kind: [json.loads(line) for line in path.read_text().splitlines()]
        for kind, path in lists.items()
    }
    assert [(each["row"], each["reason"]) for each in lost["image"]] == [(1, "unreadable image")]
    assert [(each["row"], each["reason"]) for each in lost["audio"]] == [(3, "audio too short")]
    assert lost["audio"][0]["file"].endswith("short.wav")
    code, told = run(
        "rm_lost", "--data_path", files / "r.json", "--lost", lists["image"], "--output",
        files / "clean.json",
    )  # fmt: skip
    assert (code, "4 records, 1 left out" in told) == (0, True)
    clean = json.loads((files / "clean.json").read_text())
    assert [each["id"] for each in clean] == [0, 2, 3, 4]
    assert clean[-1]["model"] == "gpt"
    assert (files / "r.json").read_bytes() == before
    same = ["rm_lost", "--data_path", files / "r.json", "--lost", lists["image"]]
    assert run(*same, "--output", files / "r.json")[0] == 2
    assert (files / "r.json").read_bytes() == before
    (files / "bad.jsonl").write_text("{}")
    assert run(*same[:-1], files / "bad.jsonl", "--output", files / "x.json")[0] == 2


def test_lost_videos_are_listed(tmp_path: Path) -> None:
    video_file(tmp_path / "v.mp4")
    (tmp_path / "w.mp4").write_bytes((tmp_path / "v.mp4").read_bytes()[:200])
    rows = [
        {"id": name, "video": name, "conversations": turns("<video>", "x")}
        for name in ("v.mp4", "w.mp4")
    ]
    (tmp_path / "r.json").write_text(json.dumps(rows))
    words = ["--data_path", tmp_path / "r.json", "--root", tmp_path, "--output", tmp_path / "l"]
    assert run("check_video_lost", *words)[0] == 1
    lost = [json.loads(line) for line in (tmp_path / "l").read_text().splitlines()]
    assert [(each["row"], Path(each["file"]).name) for each in lost] == [(1, "w.mp4")]


def test_numbers(files: Path) -> None:
    counts = json.loads(run("statistics_data_num", "--data_path", files / "r.json")[1])
    assert counts == {
        "records": 5, "rounds": 7, "images": 2, "videos": 0, "audios": 3, "negatives": 1,
        "interrupted": 0, "audio questions": 3, "text questions": 4, "sets": {"image": 2},
    }  # fmt: skip


def test_media_are_counted_by_size_and_duration(files: Path) -> None:
    image_file(files / "m" / "long.png", 130, 10)
    video_file(files / "m" / "v.mp4")
    rows = json.loads((files / "r.json").read_text())
    rows += [
        {"id": 5, "image": ["long.png", "a.jpg"], "conversations": turns("<image><image>", "x")},
        {"id": 6, "video": "v.mp4", "conversations": turns("<video>", "x")},
    ]
    (files / "r.json").write_text(json.dumps(rows))
    words = ["--data_path", files / "r.json"]
    images = json.loads(run("statistics_image_num", *words)[1])
    assert images["histogram"] == {"0": 4, "1": 2, "2": 1}
    assert images["images"] == 4
    words += ["--root", files / "m"]

    def counted(tool: str, *more: str) -> tuple[int, dict[str, int], list[Any]]:
        code, told = run(tool, *words, *more)
        found = json.loads(told)
        bins = {name: count for name, count in found["histogram"].items() if count}
        assert sum(bins.values()) == found["files"]
        return code, bins, found["faults"]

    assert counted("statistics_audio_duration") == (0, {"0-1": 1, "1-5": 2}, [])
    code, bins, faults = counted("statistics_resolution")
    assert (code, sum(bins.values()), bins["0-112"]) == (1, 3, 3)
    assert [(fault["row"], fault["reason"]) for fault in faults] == [(1, "unreadable image")]
    assert counted("statistics_resolution", "--videos")[0] == 0
    assert counted("statistics_video_filesize") == (0, {"0-1": 1}, [])
    assert run("check_image_space_ratio", *words, "--output", files / "l")[0] == 1
    listed = [json.loads(line) for line in (files / "l").read_text().splitlines()]
    assert [(each["row"], each["reason"]) for each in listed] == [
        (1, "unreadable image"),
        (5, "long image"),
    ]
    assert run("check_image_space_ratio", *words, "--output", files / "l", "--most", "13")[0] == 1
    assert len((files / "l").read_text().splitlines()) == 1


def test_tokens(tmp_path: Path) -> None:
    small_world(tmp_path, 4)
    train_tokenizer(["the red circle"] * 20, 420, tmp_path / "tokenizer")
    settings = [
        "--set", f"tokenizer.source={tmp_path / 'tokenizer'}", "--set",
        "model.llm.max_positions=4096",
    ]  # fmt: skip
    code, told = run(
        "statistics_token_num", "--data_path", tmp_path / "talk-train.json", "--recipe", "tiny",
        "--root", tmp_path, "--output_path", tmp_path / "tokens.json", *settings,
    )  # fmt: skip
    assert code == 0, told
    counts = json.loads((tmp_path / "tokens.json").read_text())
    assert counts["records"] == 4 == sum(counts["histogram"].values())
    assert counts["tokens"] > 40
    words = ["statistics_token_num", "--data_path", tmp_path / "talk-train.json", "--recipe"]
    assert run(*words, "tiny")[0] == 2  # which trains its tokenizer itself


def test_folders_of_media_are_made_uniform(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    image_file(folder / "a" / "large.jpg", 900, 600)
    image_file(folder / "small.png", 40, 30)
    Image.new("CMYK", (700, 500)).save(folder / "c.jpg")
    (folder / "bad.jpg").write_bytes(b"x")
    code, told = run("preprocess_images", "--input_dir", folder, "--output_dir", out)
    assert code == 1
    assert "unreadable image" in told
    sizes = {path.name: Image.open(path).size for path in out.rglob("*.*g")}
    assert sizes == {"large.jpg": (672, 448), "small.png": (40, 30), "c.jpg": (627, 448)}
    assert Image.open(out / "c.jpg").mode == "RGB"
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*g")}
    run("preprocess_images", "--input_dir", folder, "--output_dir", out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.*g")} == before
    assert run("preprocess_images", "--input_dir", folder, "--output_dir", folder / "b")[0] == 2
    assert run("preprocess_images", "--input_dir", tmp_path / "no", "--output_dir", out)[0] == 2


def test_folders_of_audio_are_made_uniform(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    audio_file(folder / "s" / "a.wav", 1.0, rate=44100)
    wave = np.random.default_rng(0).uniform(-0.3, 0.3, (8000, 2))
    soundfile.write(folder / "b.flac", wave, 8000)
    audio_file(folder / "b.wav")
    code, told = run("preprocess_audio", "--input_dir", folder, "--output_dir", out)
    assert code == 1
    assert "same name" in told
    info = soundfile.info(out / "s" / "a.wav")
    assert (info.samplerate, info.channels, info.frames) == (16000, 1, 16000)
    assert soundfile.info(out / "b.wav").frames == 16000
    assert not list(out.rglob("*.part"))
