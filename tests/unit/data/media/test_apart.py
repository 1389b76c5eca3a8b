"""Files that hang, crash or swell the decoder are rejects, and the next file is decoded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.helpers.data_world import (
    audio_file,
    image_file,
    recipe,
    small_world,
    turns,
    write_registry,
)
from tests.helpers.media_zoo import tone, write_audio
from vita_train.data.check.run import check
from vita_train.data.media import MediaError
from vita_train.data.media.apart import Decoder
from vita_train.data.media.measure import MediaFile
from vita_train.data.prepare.row_encoder import measure_settings

#: Takes the place of `measure` in the decoding process: the file's name says what it does. Other
#: names are the tiles that a good file has; that it was decoded is seen beside it.
HOSTILE = """
import os, signal, sys, time
from multiprocessing.connection import Connection
import vita_train.data.media.apart as apart
from vita_train.data.media.measure import Measured
apart.SECONDS, apart._PATIENCE, apart._WALL_SECONDS = 1, 1, 1
def hostile(file, settings):
    name = file.path.stem
    if name == "spin":
        while True: pass
    if name == "sleep":
        time.sleep(600)
    if name == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "swell":
        with apart.decoding(file.path, file.kind):
            return bytearray(2 << 30)
    file.path.with_suffix(".seen").touch()
    return Measured(tiles=int(name))
apart.decoding = __import__("vita_train.data.media.door", fromlist=["door"]).decoding
apart.measure = hostile
apart.main(Connection(int(sys.argv[-1])))
"""


@pytest.fixture
def hostile_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Decoder]:
    (tmp_path / "hostile.py").write_text(HOSTILE)
    start = subprocess.Popen

    def hostile(command: list[str], **options: Any) -> Any:
        return start([command[0], str(tmp_path / "hostile.py"), command[-1]], **options)

    monkeypatch.setattr("vita_train.data.media.apart.subprocess.Popen", hostile)
    with Decoder(measure_settings(recipe())) as decoder:
        yield decoder


REASONS = {
    "spin": "takes too long",
    "sleep": "takes too long",
    "crash": "unreadable image",
    "swell": "too large",
}


def named(folder: Path, *names: str) -> list[MediaFile]:
    return [MediaFile("image", folder / f"{name}.jpg") for name in names]


def outcome(decoder: Decoder, file: MediaFile) -> str:
    """The reason why a file cannot be used, or its tiles."""
    try:
        return str(decoder.measure(file).tiles)
    except MediaError as error:
        return error.reason if str(file.path) in error.detail else error.detail


def test_no_file_takes_the_decoder_with_it(tmp_path: Path, hostile_decoder: Decoder) -> None:
    for name, reason in REASONS.items():
        bad, good = named(tmp_path, name, "7")
        assert outcome(hostile_decoder, bad) == reason
        assert outcome(hostile_decoder, good) == "7"


def test_files_that_are_expected_answer_for_themselves_alone(
    tmp_path: Path, hostile_decoder: Decoder
) -> None:
    names = ("1", "spin", "2", "crash", "crash", "3", "3", "swell", "4", "sleep", "swell", "5")
    files = named(tmp_path, *names)
    hostile_decoder.expect(files)
    assert [outcome(hostile_decoder, file) for file in files] == [
        REASONS.get(name, name) for name in names
    ]


def test_what_is_expected_may_be_left_out(tmp_path: Path, hostile_decoder: Decoder) -> None:
    for name in REASONS:
        hostile_decoder.expect(named(tmp_path, "1", name, "2", name, "3"))
        for asked in ("1", "2", "9", "3"):
            assert outcome(hostile_decoder, *named(tmp_path, asked)) == asked


def test_an_expected_file_is_decoded_before_it_is_asked_for(
    tmp_path: Path, hostile_decoder: Decoder
) -> None:
    files = named(tmp_path, "1", "2", "3")
    hostile_decoder.expect(files)
    hostile_decoder.measure(files[0])
    deadline = time.monotonic() + 60
    while not files[1].path.with_suffix(".seen").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not files[2].path.with_suffix(".seen").exists()


def test_an_expected_file_survives_the_end_of_a_decoder(tmp_path: Path) -> None:
    files = [
        MediaFile("audio", audio_file(tmp_path / f"{number}.wav", 0.5 + number / 10))
        for number in range(6)
    ]
    with Decoder(measure_settings(recipe())) as decoder:
        expected = [decoder.measure(file).samples for file in files]
        decoder.expect(files)
        for file, samples in zip(files, expected, strict=True):
            assert decoder.measure(file).samples == samples
            assert decoder._running is not None
            os.kill(decoder._running[0].pid, signal.SIGKILL)


def test_a_decoder_ended_from_outside_is_replaced(tmp_path: Path) -> None:
    path = image_file(tmp_path / "p.jpg")
    with Decoder(measure_settings(recipe())) as decoder:
        before = decoder.measure(MediaFile("image", path))
        assert decoder._running is not None
        parent = decoder._running[0].pid
        child = int(Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0])
        os.kill(child, 9)
        assert decoder.measure(MediaFile("image", path)) == before
        os.kill(decoder._running[0].pid, 9)
        assert decoder.measure(MediaFile("image", path)) == before


def test_a_bomb_costs_a_row(tmp_path: Path) -> None:
    Image.new("L", (12_000, 12_000)).save(tmp_path / "bomb.png")
    with Decoder(measure_settings(recipe())) as decoder, pytest.raises(MediaError) as caught:
        decoder.measure(MediaFile("image", tmp_path / "bomb.png"))
    assert caught.value.reason == "too large"


def test_pipes_links_out_of_the_root_and_odd_rows_are_rejects(tmp_path: Path) -> None:
    small_world(tmp_path)
    (tmp_path / "outside.jpg").write_bytes((tmp_path / "pics" / "p0.jpg").read_bytes())
    (tmp_path / "pics" / "link.jpg").symlink_to(tmp_path / "outside.jpg")
    (tmp_path / "pics" / "inside.jpg").symlink_to("p0.jpg")
    os.mkfifo(tmp_path / "pics" / "pipe.jpg")
    rows = [
        {
            "id": name,
            "set": "pics",
            "image": f"{name}.jpg",
            "conversations": turns("<image>\nwhat?", "a thing."),
        }
        for name in ("p0", "link", "inside", "pipe")
    ]
    heard = [
        {"id": "mute", "conversations": turns("no audio", "at all.")},
        {"id": "s0", "audio": ["s0.wav"], "conversations": turns("<audio>\nwrite.", "one")},
    ]
    registry = write_registry(
        tmp_path, {"look": {"train": rows}, "talk": {"train": rows[:1]}, "hear": {"train": heard}}
    )
    report = check(registry, recipe(), progress=lambda line: None)
    assert [(reject.id, reject.reason) for _, _, reject in report.rejects] == [
        ("mute", "no audio"),
        ("link", "path outside its root"),
        ("pipe", "unreadable image"),
    ]


def test_a_script_without_a_guard_can_prepare(tmp_path: Path) -> None:
    write_audio(tmp_path / "s.wav", tone())
    script = tmp_path / "script.py"
    script.write_text(f"""
import sys
import time
sys.path.insert(0, {str(Path(__file__).parents[4])!r})
from tests.helpers.data_world import recipe
from pathlib import Path
from vita_train.data.prepare.row_encoder import measure_settings
from vita_train.data.media.apart import Decoder
from vita_train.data.media.measure import MediaFile
with Decoder(measure_settings(recipe())) as decoder:
    print(decoder.measure(MediaFile("audio", Path({str(tmp_path / "s.wav")!r}))).samples)
""")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "16000"


def test_a_fork_killed_after_its_answer_shifts_no_answer(tmp_path: Path) -> None:
    files = [audio_file(tmp_path / f"{number}.wav", 0.5 + number / 10) for number in range(4)]
    with Decoder(measure_settings(recipe())) as decoder:
        expected = [decoder.measure(MediaFile("audio", path)).samples for path in files]
        assert len(set(expected)) == 4
        for path, samples in zip(files, expected, strict=True):
            assert decoder.measure(MediaFile("audio", path)).samples == samples
            assert decoder._running is not None
            parent = decoder._running[0].pid
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
            for child in children:
                os.kill(int(child), signal.SIGKILL)
            time.sleep(0.2)
