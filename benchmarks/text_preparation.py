"""Text records that preparation makes ready a processor second, and the memory it takes.

    python benchmarks/text_preparation.py [--records 100000] [--workers 1] [--array]

Writes conversations of two turns of some 60 words in all, with a given tokenizer of 16,384 entries,
and prepares them three times: new; with 1 % more records; and once more after a record in the
middle was taken out. Prints one JSON object. Processor seconds are those of all processes, starting
them included. ``tokenizer_cpu`` is what the tokenizer's library alone takes for the same texts in
batches as large: on a busy machine the one tells more beside the other.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import cast

import numpy as np

RECIPE = """
name: speed
tokenizer: {source: tokenizer, vocab_size: 16384}
model:
  dtype: float32
  llm: {vocab_size: 16384, hidden_size: 64, num_layers: 2, num_heads: 4, num_kv_heads: 2,
      max_positions: 8192}
  speech_decoder: {width: 64}
data:
  source: {own: {kind: records, registry: registry.json}}
stages:
  "2.2": {objective: next_token, data: {d: 1.0}, trainable: {llm: 1.0e-3}, steps: 2,
          batch: {global_batch_size: 2, seq_len: 8192}}
"""
_PREPARE = """
import resource, sys
from pathlib import Path
from vita_train.data.prepare.run import prepare
from vita_train.recipe.load import load_recipe
if __name__ == "__main__":
    recipe, registry = load_recipe("recipe.yaml"), Path("registry.json")
    prepare(recipe, registry, Path("out"), workers=int(sys.argv[1]))
"""


class Writer:
    """Writes records of random words, whose frequencies fall as those of a language."""

    def __init__(self) -> None:
        self._chance = np.random.default_rng(0)
        letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
        odds = np.linspace(2, 0.2, 26)
        lengths = self._chance.integers(2, 11, 12_000)
        self._words = np.array(
            ["".join(self._chance.choice(letters, n, p=odds / odds.sum())) for n in lengths]
        )
        self._odds = 1 / np.arange(10, 12_010)
        self._odds /= self._odds.sum()

    def texts(self, count: int, words: int) -> list[str]:
        """Return texts of so many words."""
        drawn = self._chance.choice(self._words, (count, words), p=self._odds)
        return [" ".join(row) + "." for row in drawn.tolist()]

    def records(self, first: int, count: int) -> list[dict[str, object]]:
        """Return records, numbered from ``first``."""
        pairs = zip(self.texts(count, 20), self.texts(count, 40), strict=True)
        return [
            {
                "id": f"record-{number}",
                "conversations": [
                    {"from": "human", "value": asked},
                    {"from": "gpt", "value": answered},
                ],
            }
            for number, (asked, answered) in enumerate(pairs, first)
        ]


def write_world(at: Path, records: int, *, array: bool) -> Writer:
    """Write tokenizer, recipe, registry and records."""
    from vita_train.data.prepare.tokenizer import train_tokenizer

    writer = Writer()
    train_tokenizer(writer.texts(20_000, 60), 16384, at / "tokenizer")
    rows = writer.records(0, records)
    write_records(at / "rows.json", rows, array=array)
    (at / "recipe.yaml").write_text(RECIPE)
    (at / "registry.json").write_text(
        json.dumps(
            {
                "datasets": {
                    "d": {"task": "dialogue", "train": {"records": "rows.json", "roots": {}}}
                }
            }
        )
    )
    return writer


def write_records(path: Path, rows: list[dict[str, object]], *, array: bool) -> None:
    """Write a record file, as an array or as lines."""
    lines = [json.dumps(row) for row in rows]
    path.write_text("[" + ",\n".join(lines) + "]" if array else "\n".join(lines) + "\n")


def prepare(tree: Path, at: Path, workers: int) -> dict[str, float]:
    """Prepare in a fresh process; return seconds, and its memory at the most."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", _PREPARE, str(workers)],
        cwd=at,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(tree)},
    )
    most = 0
    while process.poll() is None:
        most = max(most, resident(process.pid))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit("preparation failed")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "wall": time.perf_counter() - start,
        "megabytes": most / 2**20,
    }


def resident(pid: int) -> int:
    """Bytes of memory that a process and those it started hold, shared pages counted once for
    all."""
    total = 0
    for task in _family(pid):
        try:
            text = Path(f"/proc/{task}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total * 1024


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(found for child in children for found in _family(int(child)))]


def tokenizer_alone(at: Path, rows: list[dict[str, object]]) -> float:
    """Return the processor seconds of encoding all turns and nothing else."""
    from vita_train.data.prepare.tokenizer import SavedTokenizer

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    backend = SavedTokenizer(at / "tokenizer").backend_tokenizer
    turns = [turn for row in rows for turn in cast(list[dict[str, str]], row["conversations"])]
    texts = [turn["value"] for turn in turns]
    start = time.process_time()
    for first in range(0, len(texts), 512):
        for encoding in backend.encode_batch_fast(texts[first : first + 512]):
            _ = encoding.ids
    return time.process_time() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--array", action="store_true", help="one JSON array, not JSON Lines")
    parser.add_argument("--tree", type=Path, default=Path(__file__).resolve().parents[1])
    options = parser.parse_args()
    results: dict[str, object] = {"records": options.records, "workers": options.workers}
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        writer = write_world(at, options.records, array=options.array)
        rows = [json.loads(json.dumps(row)) for row in _rows(at / "rows.json")]
        more = writer.records(options.records, options.records // 100)
        for name, these in (
            ("new", rows),
            ("one_percent_more", rows + more),
            ("one_less", rows[: len(rows) // 2] + rows[len(rows) // 2 + 1 :] + more),
        ):
            write_records(at / "rows.json", these, array=options.array)
            spent = prepare(options.tree, at, options.workers)
            results[name] = {unit: round(value, 2) for unit, value in spent.items()}
            results[f"{name}_records_a_cpu_second"] = round(len(these) / spent["cpu"])
        results["tokenizer_cpu"] = round(tokenizer_alone(at, rows), 2)
    print(json.dumps(results, indent=1))


def _rows(path: Path) -> list[dict[str, object]]:
    text = path.read_text()
    return json.loads(text) if text[0] == "[" else [json.loads(line) for line in text.splitlines()]


if __name__ == "__main__":
    main()
