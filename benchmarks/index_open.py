"""How long it takes to open a prepared index, to plan its first batch, and to resume in its middle.

    python benchmarks/index_open.py [--rows 5000000] [--keep DIR]

Writes an index of synthetic rows, then measures in a fresh process. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from vita_train.data.index.sample import MediaSettings
from vita_train.data.prepare.index_writer import INDEX_FORMAT, ROWS_PER_BATCH, SCHEMA
from vita_train.recipe.audio import SubsamplingAdapterSpec
from vita_train.recipe.data import DataSpec
from vita_train.recipe.towers.internvit import InternVitSpec

_MEASURE = """
import json, re, sys, time
def resident():
    text = open("/proc/self/status").read()
    found = {name: re.search(name + r":\\s+(\\d+)", text)[1] for name in ("VmRSS", "RssAnon")}
    return {name: round(int(size) / 1024, 1) for name, size in found.items()}
from pathlib import Path
from vita_train.data.index.corpus import Index
from vita_train.data.sampling.order import PackedOrder
from vita_train.data.sampling.pack import Budgets
result = {"resident_mb_before": resident()}
def timed(name, work):
    start, cpu = time.perf_counter(), time.process_time()
    made = work()
    spent = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    result[name] = {unit: round(value, 4) for unit, value in spent.items()}
    return made
index = timed("open", lambda: Index(Path(sys.argv[1])))
timed("one_sample", lambda: index.sample(len(index) // 2))
result["resident_mb_opened"] = resident()
def order():
    return PackedOrder({"synthetic": index}, {"synthetic": 1.0}, 256, Budgets(6200, 24, 20000), 0)
if len(sys.argv) > 2:
    resumed = order()
    resumed.seek(json.loads(sys.argv[2]))
    step = json.loads(sys.argv[2])["step"]
    timed("first_batch", lambda: resumed.rows(step))
    timed("its_samples", lambda: [resumed.load(row) for row in resumed.rows(step)[:16]])
else:
    first = order()
    timed("first_batch", lambda: first.rows(0))
    timed("its_samples", lambda: [first.load(row) for row in first.rows(0)[:16]])
result["resident_mb_planned"] = resident()
if len(sys.argv) == 2:
    half = first.steps_per_epoch // 2
    state = timed("walk_to_the_middle", lambda: first.state(half))
    result["state"] = {**state, "step": half}
print(json.dumps(result))
"""


def write_index(path: Path, rows: int) -> None:
    """Write an index of ``rows`` rows; record batches repeat, lengths do not."""
    path.mkdir(parents=True)
    generator = np.random.default_rng(0)
    batch = _batch(generator)
    with pa.ipc.new_file(str(path / "index.arrow"), SCHEMA) as arrow:
        for start in range(0, rows, ROWS_PER_BATCH):
            arrow.write_batch(batch.slice(0, min(ROWS_PER_BATCH, rows - start)))
    lengths = np.stack(
        [
            generator.integers(30, 2000, rows),
            generator.integers(0, 9, rows),
            generator.integers(0, 2, rows) * 500,
        ],
        axis=1,
    )
    lengths.astype("<i4").tofile(path / "lengths.bin")
    settings = MediaSettings(
        data=DataSpec(), vision=InternVitSpec(), adapter=SubsamplingAdapterSpec(), mel_bins=80
    )
    meta = {
        "format": INDEX_FORMAT,
        "rows": rows,
        "digest": "synthetic",
        "feature_bins": 0,
        "feature_frames": 0,
        "dataset": "synthetic",
        "split": "train",
        "roots": {"pics": "/none"},
        "settings": settings.model_dump(mode="json"),
    }
    (path / "meta.json").write_text(json.dumps(meta))


def _batch(generator: np.random.Generator) -> pa.RecordBatch:
    def row(place: int) -> dict[str, object]:
        ids = generator.integers(0, 150000, generator.integers(20, 80)).tolist()
        return {
            "id": f"record-{place}",
            "ids": ids,
            "spans": [10, len(ids)],
            "runs": [],
            "supervised": len(ids) - 10,
            "images": [],
            "image_tiles": [],
            "videos": [],
            "video_frame_indices": [],
            "audios": [],
            "audio_frames": [],
            "media_digests": [],
            "feature_offset": 0,
            "seconds": 0.0,
            "turns": ["what is to be seen here?" * 2, "a shelf " * 8],
            "inserted": -1,
            "states": [],
        }

    return pa.RecordBatch.from_pylist(
        [row(place) for place in range(ROWS_PER_BATCH)], schema=SCHEMA
    )


def measure(path: Path, *state: str) -> dict[str, object]:
    """Measure in a fresh process."""
    command = [sys.executable, "-c", _MEASURE, str(path), *state]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def open_and_resume(path: Path) -> dict[str, object]:
    """Measure from the start, and resumed in the middle."""
    start = measure(path)
    return {"start": start, "middle": measure(path, json.dumps(start.pop("state")))}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--keep", type=Path, help="write the index here and leave it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path = (options.keep or Path(scratch)) / "index"
        start = time.perf_counter()
        write_index(path, options.rows)
        written = time.perf_counter() - start
        size = sum(file.stat().st_size for file in path.iterdir())
        opened = open_and_resume(path)
    print(
        json.dumps(
            {
                "rows": options.rows,
                "gigabytes": round(size / 1e9, 2),
                "write_seconds": round(written, 1),
                **opened,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
