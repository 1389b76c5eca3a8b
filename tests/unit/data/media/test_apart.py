"""Files that hang, crash or swell the decoder are rejects, and the next file is decoded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
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

#: Takes the place of `measure` in the decoding process: the file's name says what it does.
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
    return Measured(tiles=7)
apart.decoding = __import__("vita_train.data.media.door", fromlist=["door"]).decoding
apart.measure = hostile
apart.main(Connection(int(sys.argv[-1])))
"""


def test_no_file_takes_the_decoder_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hostile.py").write_text(HOSTILE)
    start = subprocess.Popen

    def hostile(command: list[str], **options: Any) -> Any:
        return start([command[0], str(tmp_path / "hostile.py"), command[-1]], **options)

    monkeypatch.setattr("vita_train.data.media.apart.subprocess.Popen", hostile)
    with Decoder(measure_settings(recipe())) as decoder:
        for name, reason in (
            ("spin", "takes too long"),
            ("sleep", "takes too long"),
            ("crash", "unreadable image"),
            ("swell", "too large"),
        ):
            path = tmp_path / f"{name}.jpg"
            with pytest.raises(MediaError) as caught:
                decoder.measure(MediaFile("image", path))
            assert caught.value.reason == reason
            assert str(path) in caught.value.detail
            assert decoder.measure(MediaFile("image", tmp_path / "good.jpg")).tiles == 7


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
