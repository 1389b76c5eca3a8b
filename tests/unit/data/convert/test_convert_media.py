"""Converting folders: what comes out is what people see and hear, each file has its line, and what
is done is not done again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image
from typer.testing import CliRunner

from tests.helpers.data_world import audio_file, image_file, turns
from vita_train.cli.main import build_app
from vita_train.data.convert.media import LEDGER, ConvertSettings, convert_folder
from vita_train.data.media.encode import ImageOutput, Output, encode_image
from vita_train.errors import VitaError


def run(*words: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(build_app(), ["data", "convert", *map(str, words)])
    if isinstance(result.exception, VitaError):
        return result.exception.exit_code, result.exception.code
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def ledger(out: Path) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in (out / LEDGER).read_text().splitlines()]
    assert len({line["source"] for line in lines}) == len(lines)
    return {line["source"]: line for line in lines}


def encoded(tmp_path: Path, image: Image.Image, ending: str = ".png", **save: Any) -> Image.Image:
    path = tmp_path / f"in{ending}"
    image.save(path, **save)
    out = tmp_path / "out.png"
    out.write_bytes(encode_image(path, ImageOutput(None, format="png")))
    return Image.open(out)


def test_images_come_out_as_they_are_seen(tmp_path: Path) -> None:
    red_left = Image.new("RGB", (40, 20), (0, 0, 255))
    red_left.paste((255, 0, 0), (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned to the right: what is at the left comes to the top
    turned = encoded(tmp_path, red_left, ".jpg", exif=exif, quality=95)
    assert turned.size == (20, 40)
    assert not turned.getexif().get(0x0112)
    top, bottom = (np.asarray(turned)[row].mean(axis=0) for row in (4, 35))
    assert top[0] > 200 > top[2]
    assert bottom[2] > 200 > bottom[0]
    clear = encoded(tmp_path, Image.new("RGBA", (4, 4), (0, 0, 0, 0)))
    assert (clear.mode, clear.getpixel((1, 1))) == ("RGB", (255, 255, 255))
    ink = encoded(tmp_path, Image.new("CMYK", (4, 4), (0, 255, 255, 0)), ".tif")
    assert ink.mode == "RGB"
    assert ink.getpixel((1, 1))[0] > 150 > ink.getpixel((1, 1))[1]  # type: ignore[index]
    deep = encoded(tmp_path, Image.fromarray(np.full((4, 4), 0x8000, np.uint16)))
    assert deep.getpixel((1, 1)) == (128, 128, 128)
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    first = encoded(tmp_path, frames[0], ".gif", save_all=True, append_images=frames[1:])
    assert first.getpixel((1, 1)) == (255, 0, 0)
    assert getattr(first, "n_frames", 1) == 1


@pytest.mark.parametrize(
    ("output", "size"),
    [
        (ImageOutput(100), (100, 50)),
        (ImageOutput(100, "shortest"), (200, 100)),
        (ImageOutput(100, "square"), (100, 100)),
        (ImageOutput(None), (400, 200)),
        (ImageOutput(900), (400, 200)),
        (ImageOutput(800, enlarge=True), (800, 400)),
        (ImageOutput(300, "square", "crop"), (200, 200)),
    ],
)
def test_sizes(tmp_path: Path, output: ImageOutput, size: tuple[int, int]) -> None:
    path = image_file(tmp_path / "a.jpg", 400, 200)
    (tmp_path / "b.jpg").write_bytes(encode_image(path, output))
    assert Image.open(tmp_path / "b.jpg").size == size


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    at = tmp_path / "in"
    image_file(at / "a" / "one.png", 900, 600)
    image_file(at / "two.jpg", 30, 40)
    audio_file(at / "s.wav", 1.0, rate=44100)
    soundfile.write(at / "t.flac", np.random.default_rng(0).uniform(-0.3, 0.3, (8000, 2)), 8000)
    (at / "bad.jpg").write_bytes(b"no image")
    (at / "empty.wav").write_bytes(b"")
    os.mkfifo(at / "pipe.png")
    image_file(tmp_path / "outside.jpg")
    (at / "link.jpg").symlink_to(tmp_path / "outside.jpg")
    image_file(at / "two.webp")
    (at / "notes.txt").write_text("x")
    return at


def test_every_file_has_its_line(folder: Path, tmp_path: Path) -> None:
    before = {path: path.stat() for path in folder.rglob("*")}
    out = tmp_path / "out"
    code, told = run(folder, "--out", out, "--workers", "2")
    assert (code, told[:7]) == (2, "VT-DATA")
    lines = ledger(out)
    reasons = {name: line["reason"] for name, line in lines.items() if line["reason"]}
    assert reasons == {
        "bad.jpg": "unreadable image",
        "empty.wav": "empty file",
        "pipe.png": "unreadable image",
        "link.jpg": "path outside its root",
        "two.webp": "same name",
    }
    written = {path.relative_to(out).as_posix() for path in out.rglob("*.*")} - {LEDGER}
    assert written == {"a/one.jpg", "two.jpg", "s.wav", "t.wav"}
    assert {line["target"] for line in lines.values() if line["target"]} == written
    assert Image.open(out / "a" / "one.jpg").size == (448, 299)
    for name, samples in (("s.wav", 16000), ("t.wav", 16000)):
        info = soundfile.info(out / name)
        assert (info.samplerate, info.channels, info.frames) == (16000, 1, samples)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == {
        path: status.st_mtime_ns for path, status in before.items()
    }
    assert run(folder, "--out", out, "--max-rejects", "5")[0] == 0
    assert run(folder, "--out", folder / "x")[0] == 2
    assert run(folder / "no", "--out", out)[0] == 2


def test_only_what_changed_is_done_again(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for name in "abc":
        image_file(folder / f"{name}.jpg", seed=ord(name))
    settings = ConvertSettings(Output(ImageOutput(20)))

    def again(settings: ConvertSettings = settings, workers: int = 1) -> tuple[int, int]:
        report = convert_folder(folder, out, settings, workers=workers)
        assert report.files == report.written + report.current + report.reasons.total()
        return report.written, report.current

    assert again() == (3, 0)
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    assert again(workers=2) == (0, 3)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == first
    os.utime(folder / "a.jpg")  # the same bytes
    assert again() == (0, 3)
    image_file(folder / "a.jpg", seed=7)
    (out / "b.jpg").unlink()
    assert again() == (2, 1)
    assert again(ConvertSettings(Output(ImageOutput(10)))) == (3, 0)
    # A killed run leaves the part of its ledger that it had come to.
    lines = (out / LEDGER).read_text().splitlines(keepends=True)
    (out / LEDGER).unlink()
    (out / f"{LEDGER}.part").write_text("".join(lines[:2]) + '{"source": "c.j')
    assert again(ConvertSettings(Output(ImageOutput(10)))) == (1, 2)
    assert not list(out.glob("*.part"))


def test_records_get_the_new_names(folder: Path, tmp_path: Path) -> None:
    rows: list[Any] = [
        {"id": 0, "image": "a/one.png", "model": "kept", "conversations": turns("<image>", "x")},
        {"id": 1, "image": ["two.jpg", "a\\one.png"], "conversations": turns("<image>" * 2, "x")},
        {"id": 2, "audio": "t.flac", "video": "v.mp4", "conversations": turns("<audio>", "x")},
        {"id": 3, "image": "bad.jpg", "conversations": turns("<image>", "x")},
        {"id": 4, "image": 7},
        {"id": 5, "conversations": turns("a", "b")},
        "none",
    ]  # fmt: skip
    source, out = tmp_path / "r.json", tmp_path / "new" / "r.json"
    source.write_text(json.dumps(rows))
    words = [folder, "--out", tmp_path / "out", "--records", source]
    assert run(*words, "--out-records", out, "--max-rejects", "8")[0] == 0
    written = json.loads(out.read_text())
    assert [row["id"] for row in written] == [0, 1, 2, 5]
    assert written[0] == rows[0] | {"image": "a/one.jpg"}
    assert written[1]["image"] == ["two.jpg", "a/one.jpg"]
    assert (written[2]["audio"], written[2]["video"]) == ("t.wav", "v.mp4")
    rejected = (out.parent / "r.rejects.jsonl").read_text().splitlines()
    assert [(each["row"], each["reason"]) for each in map(json.loads, rejected)] == [
        (3, "not converted"),
        (4, "wrong value"),
        (6, "not an object"),
    ]
    assert json.loads(source.read_text()) == rows
    assert run(*words)[0] == 2
    assert run(*words, "--out-records", source)[0] == 2
    assert json.loads(source.read_text()) == rows
