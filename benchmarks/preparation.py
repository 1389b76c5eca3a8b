"""Processor seconds that preparation takes, this tree beside another: ``python
benchmarks/preparation.py OTHER``.

OTHER is a checkout of the version to compare with. Both prepare the same small corpus of real files
(photographs' sizes, clips of ten seconds, short videos) a few times in turn, with all their
processes counted.
"""

from __future__ import annotations

import json
import os
import resource
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

ROUNDS = 5
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


def main() -> None:
    """Compare and print."""
    ours, other = Path(__file__).resolve().parents[1], Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        write_corpus(Path(folder))
        for workers in (1, 2):
            spent: dict[Path, list[float]] = {other: [], ours: []}
            for _ in range(ROUNDS):
                for tree, seconds in spent.items():
                    seconds.append(prepare(tree, Path(folder), workers))
            before, now = (statistics.median(spent[tree]) for tree in (other, ours))
            print(
                f"workers {workers}: {before:.2f} s before, {now:.2f} s now,"
                f" {now / before - 1:+.1%}"
            )


if __name__ == "__main__":
    main()
