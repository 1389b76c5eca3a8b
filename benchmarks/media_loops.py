"""Check and conversion of media beside bare loops over the same decoder calls.

    python benchmarks/media_loops.py [--images 240] [--clips 160] [--workers 2] [--rounds 3]

Photographs of 1024 x 768 (JPEG, PNG, WebP) and recordings of ten seconds (WAV, FLAC, MP3, Ogg). The
bare loops are a pool of as many processes that decode each file with the libraries that ours uses
(Pillow, soundfile, soxr), hash it, and for the conversion scale and write it as ours does: no
limits, no ledger, no tests of what is decoded, no names checked. The bare loops have their
processes started before the clock; ours start theirs on it. Files a second of wall time, medians of
rounds in turn, and beside them what tells more on a busy machine: processor milliseconds a file,
of all processes, and the share of wall time times workers that they are. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import soundfile
import soxr
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vita_train.data.check.run import CheckSettings, check_sources
from vita_train.data.check.targets import open_target
from vita_train.data.convert.media import ConvertSettings, convert_folder


def write_media(at: Path, images: int, clips: int) -> None:
    """Write the files, and records that name them."""
    chance = np.random.default_rng(0)
    rows = []
    for number in range(images):
        coarse = Image.fromarray(chance.integers(0, 255, (30, 40, 3), np.uint8))
        name = f"{number}.{('jpg', 'png', 'webp')[number % 3]}"
        coarse.resize((1024, 768)).save(at / "media" / name)
        rows.append(_row(number, "image", name))
    for number in range(clips):
        name = f"c{number}.{('wav', 'flac', 'mp3', 'ogg')[number % 4]}"
        wave = chance.uniform(-0.3, 0.3, 10 * 22050).astype(np.float32)
        soundfile.write(at / "media" / name, wave, 22050)
        rows.append(_row(images + number, "audio", name))
    (at / "records.json").write_text(json.dumps(rows))


def _row(number: int, kind: str, name: str) -> dict[str, object]:
    asked = {"from": "human", "value": f"<{kind}>"}
    return {"id": number, kind: name, "conversations": [asked, {"from": "gpt", "value": f"{name}"}]}


def decode(path: str) -> int:
    """What a check cannot do without: the digest, and every pixel or sample."""
    with open(path, "rb") as stream:
        hashlib.file_digest(stream, "sha256")
    if Path(path).suffix in (".jpg", ".png", ".webp"):
        with Image.open(path) as image:
            return image.convert("RGB").width
    return len(soundfile.read(path, dtype="float32", always_2d=True)[0])


def convert(task: tuple[str, str]) -> int:
    """What a conversion cannot do without."""
    source, target = task
    with open(source, "rb") as stream:
        hashlib.file_digest(stream, "sha256")
    data = io.BytesIO()
    if Path(source).suffix in (".jpg", ".png", ".webp"):
        with Image.open(source) as image:
            small = image.convert("RGB").resize((448, 336), Image.Resampling.BICUBIC)
        small.save(data, "JPEG", quality=95)
        target = f"{target}.jpg"
    else:
        wave, rate = soundfile.read(source, dtype="float32", always_2d=True)
        wave = soxr.resample(wave.mean(axis=1), rate, 16000)
        samples = np.round(wave.clip(-1, 1) * 32767).astype(np.int16)
        soundfile.write(data, samples, 16000, subtype="PCM_16", format="WAV")
        target = f"{target}.wav"
    return Path(target).write_bytes(data.getvalue())


def quiet(_: str) -> None:
    """Take a line of progress."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=240)
    parser.add_argument("--clips", type=int, default=160)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool,
    ):
        at = Path(folder)
        (at / "media").mkdir()
        write_media(at, options.images, options.clips)
        files = sorted(str(path) for path in (at / "media").iterdir())
        list(pool.map(decode, files[:8]))

        def bare_check() -> None:
            list(pool.map(decode, files, chunksize=4))

        def our_check() -> None:
            sources = open_target(at / "records.json", roots=[str(at / "media")])
            report = check_sources(
                sources, CheckSettings(), workers=options.workers, progress=quiet
            )
            assert report.ledger.used == len(files), report.reasons

        def bare_conversion() -> None:
            (at / "bare").mkdir()
            tasks = [(name, str(at / "bare" / Path(name).name)) for name in files]
            list(pool.map(convert, tasks, chunksize=4))

        def our_conversion() -> None:
            report = convert_folder(
                at / "media", at / "ours", ConvertSettings(), workers=options.workers
            )
            assert report.written + report.reasons["same name"] == len(files), report.reasons

        result: dict[str, object] = {"files": len(files), "workers": options.workers}
        for name, bare, ours in (
            ("check", bare_check, our_check),
            ("conversion", bare_conversion, our_conversion),
        ):
            spent: dict[str, list[tuple[float, float]]] = {"bare": [], "ours": []}
            for _ in range(options.rounds):
                for which, work in (("bare", bare), ("ours", ours)):
                    spent[which].append(timed(work))
                    shutil.rmtree(at / which, ignore_errors=True)
            result[name] = compared(spent, len(files), options.workers)
    print(json.dumps(result, indent=1))


def compared(
    spent: dict[str, list[tuple[float, float]]], files: int, workers: int
) -> dict[str, float]:
    """Return the medians over rounds of wall and processor seconds: what they say of a file."""
    found: dict[str, float] = {}
    walls: dict[str, float] = {}
    works: dict[str, float] = {}
    for which, rounds in spent.items():
        walls[which] = statistics.median(wall for wall, _ in rounds)
        works[which] = statistics.median(work for _, work in rounds)
        busy = statistics.median(work / wall for wall, work in rounds) / workers
        found[which] = round(files / walls[which], 1)
        found[f"{which}_cpu_ms"] = round(1000 * works[which] / files, 2)
        found[f"{which}_busy"] = round(busy, 3)
    found["ratio"] = round(walls["bare"] / walls["ours"], 3)
    found["cpu_ratio"] = round(works["bare"] / works["ours"], 3)
    return found


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Return the wall and processor seconds that something takes."""
    start, before = time.perf_counter(), processor_seconds(os.getpid())
    work()
    return time.perf_counter() - start, processor_seconds(os.getpid()) - before


def processor_seconds(pid: int) -> float:
    """Return what a process and all that it started have used so far, those that ended included."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        threads = sorted(Path(f"/proc/{pid}/task").iterdir())
        children = [child for task in threads for child in (task / "children").read_text().split()]
    except OSError:
        return 0.0
    # utime, stime, and those of children that were waited for (proc(5))
    own = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return own + sum(processor_seconds(int(child)) for child in children)


if __name__ == "__main__":
    main()
