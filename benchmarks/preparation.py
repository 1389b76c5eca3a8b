"""Processor seconds that preparation takes, this tree beside another, or beside itself without its
checks.

    python benchmarks/preparation.py            # what the checks cost
    python benchmarks/preparation.py OTHER      # a checkout of the version to compare with

Both prepare the same small corpus of real files (photographs' sizes, clips of ten seconds, short
videos) a few times in turn, with all their processes counted.

Without its checks means: files are decoded in the process that prepares, with no limits; nobody
looks whether they are whole, and no digest is taken of them; images are converted as they are
stored, orientation, profile and transparency left aside; of audio the first channel is taken as it
is; records are not searched for characters that are none.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile
from PIL import Image

#: What is appended to files of a copy of the package, so that nothing is looked at.
UNCHECKED = {
    "media/whole.py": "def check_whole(path, kind):\n    pass\n",
    "media/door.py": "def content_digest(path, kind):\n    return bytes(DIGEST_BYTES)\n",
    "media/shown.py": 'def as_shown(image):\n    return image.convert("RGB")\n'
    "def first_page(image):\n    pass\n",
    "media/image.py": "def _is_plain(image):\n    return False\n",
    "media/heard.py": "def to_scale(samples, path):\n    return samples\n"
    "def one_channel(samples, rate, path, channel):\n    return samples[:, 0].copy()\n"
    "def check_clipping(wave, path):\n    pass\n",
    "media/apart.py": "def _here(self, file):\n"
    "    return measure(file, _unpacked(self._settings))\nDecoder.measure = _here\n",
    "sources/reading.py": "def _check_characters(value):\n    pass\n",
}
PICTURES, CLIPS, VIDEOS, TEXTS = 150, 150, 15, 3000

RECIPE = """
name: speed
tokenizer: {vocab_size: 512}
model:
  dtype: float32
  llm: {vocab_size: 512, hidden_size: 64, num_layers: 2, num_heads: 4, num_kv_heads: 2,
      max_positions: 8192}
  speech_decoder: {width: 64}
data:
  source: {own: {kind: records, registry: registry.json}}
stages:
  "2.2": {objective: next_token, data: {d: 1.0}, trainable: {llm: 1.0e-3}, steps: 2,
          batch: {global_batch_size: 2, seq_len: 8192, max_tiles: 64, max_audio_frames: 6000}}
"""


def write_corpus(at: Path) -> None:
    """Write media, records, registry and recipe."""
    chance = np.random.default_rng(0)
    rows: list[dict[str, object]] = []

    def add(ask: str, **media: object) -> None:
        rows.append(
            {
                "id": str(len(rows)),
                **media,
                "conversations": [
                    {"from": "human", "value": ask},
                    {"from": "gpt", "value": "It is as one would expect."},
                ],
            }
        )

    for number in range(PICTURES):
        coarse = Image.fromarray(chance.integers(0, 255, (30, 40, 3), np.uint8))
        name = f"{number}.{('jpg', 'png', 'webp')[number % 3]}"
        coarse.resize((1024, 768)).save(at / name)
        add("<image>\nWhat is it?", image=name, set="m")
    for number in range(CLIPS):
        name = f"{number}.{('wav', 'flac', 'mp3', 'ogg')[number % 4]}"
        soundfile.write(at / name, chance.uniform(-0.3, 0.3, 10 * 22050).astype(np.float32), 22050)
        add("<audio>", audio=[name])
    for number in range(VIDEOS):
        name = f"{number}.mp4"
        with av.open(str(at / name), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
            for place in range(100):
                pixels = np.full((360, 640, 3), 2 * place, np.uint8)
                pixels[place : place + 60, 3 * place : 3 * place + 60] = 250
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.time_base, frame.pts = Fraction(1, 25), place
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        add("<video>\nWhat happens?", video=name, set="m")
    for _ in range(TEXTS):
        add("What do you know of the history of the place that we are going to visit today?")
    (at / "rows.json").write_text(json.dumps(rows))
    (at / "recipe.yaml").write_text(RECIPE)
    (at / "registry.json").write_text(
        json.dumps(
            {
                "datasets": {
                    "d": {
                        "task": "qa",
                        "train": {"records": "rows.json", "roots": {"m": ".", "audio": "."}},
                    }
                }
            }
        )
    )


def prepare(tree: Path, at: Path, workers: int) -> float:
    """Prepare with one tree; return processor seconds of all its processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "vita_train.cli.main",
            "data",
            "prepare",
            "recipe.yaml",
            "registry.json",
            str(at / f"out-{os.getpid()}-{tree.name}-{workers}"),
            "--workers",
            str(workers),
        ],
        cwd=at,
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(tree)},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(["rm", "-rf", str(at / f"out-{os.getpid()}-{tree.name}-{workers}")], check=True)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def without_checks(tree: Path, at: Path) -> Path:
    """Copy the package of a tree and take the checks out of the copy."""
    shutil.copytree(tree / "vita_train", at / "vita_train")
    for name, code in UNCHECKED.items():
        with (at / "vita_train" / "data" / name).open("a") as file:
            file.write(f"\n\n{code}")
    return at


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    asked = parser.parse_args()
    ours = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as copy:
        other = asked.other.resolve() if asked.other else without_checks(ours, Path(copy) / "w")
        write_corpus(Path(folder))
        for workers in asked.workers:
            spent: dict[Path, list[float]] = {other: [], ours: []}
            for _ in range(asked.rounds):
                for tree, seconds in spent.items():
                    seconds.append(prepare(tree, Path(folder), workers))
            before, now = (statistics.median(spent[tree]) for tree in (other, ours))
            pairs = [one / two - 1 for one, two in zip(spent[ours], spent[other], strict=True)]
            print(
                f"workers {workers}: {before:.2f} s before, {now:.2f} s now, "
                f"{now / before - 1:+.1%}; by round {', '.join(f'{pair:+.1%}' for pair in pairs)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
