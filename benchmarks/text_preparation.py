"""Text records that preparation makes ready a processor second, and the memory it takes.

    python benchmarks/text_preparation.py [--records 100000] [--workers 1] [--array] [--distinct N]
        [--keep DIR]

Writes conversations of two turns of some 60 words in all, with a given tokenizer of 16,384 entries,
and prepares them three times: new; with 1 % more records; and once more after a record in the
middle was taken out. Then it opens the index of the last corpus as `index_open` does. Prints one
JSON object. Processor seconds are those of all processes, starting them included.
``tokenizer_cpu`` is what the tokenizer's library alone takes for the same texts in batches as
large: on a busy machine the one tells more beside the other. Nothing here grows with the records
but files: 5 million take some 30 GB. With ``--distinct N`` there are no more than N records, again
and again: their shards are then prepared once, but read, found and joined as if they were others,
so that opening and adding to many records can be measured within minutes.
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
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path

import numpy as np
from index_open import open_and_resume

#: Records that are made at once.
_AT_ONCE = 10_000

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


def write_world(at: Path, records: int) -> None:
    """Write tokenizer, recipe, registry and, in ``all.jsonl``, records."""
    from vita_train.data.prepare.tokenizer import train_tokenizer

    writer = Writer()
    train_tokenizer(writer.texts(20_000, 60), 16384, at / "tokenizer")
    with (at / "all.jsonl").open("w") as stream:
        for first in range(0, records, _AT_ONCE):
            for row in writer.records(first, min(_AT_ONCE, records - first)):
                stream.write(json.dumps(row) + "\n")
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


def records_of(at: Path, first: int, count: int) -> Iterator[str]:
    """Yield so many records, as lines without their ends."""
    with (at / "all.jsonl").open() as stream:
        for line in islice(stream, first, first + count):
            yield line.rstrip("\n")


def repeated(at: Path, count: int, distinct: int) -> Iterator[str]:
    """Yield the first ``distinct`` records again and again, ``count`` in all."""
    for start in range(0, count, distinct):
        yield from records_of(at, 0, min(distinct, count - start))


def write_records(path: Path, lines: Iterable[str], *, array: bool) -> int:
    """Write a record file, as an array or as lines; return how many records it has."""
    count = 0
    with path.open("w") as stream:
        for count, line in enumerate(lines, 1):
            before = "[" if count == 1 else ",\n"
            stream.write(f"{before}{line}" if array else f"{line}\n")
        stream.write("]" if array else "")
    return count


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
        time.sleep(0.5)  # looking costs as much as some hundred records
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


def tokenizer_alone(at: Path, lines: Iterator[str]) -> float:
    """Return the processor seconds of encoding all turns and nothing else."""
    from vita_train.data.prepare.tokenizer import SavedTokenizer

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    backend = SavedTokenizer(at / "tokenizer").backend_tokenizer
    spent = 0.0
    while some := list(islice(lines, 256)):
        texts = [turn["value"] for line in some for turn in json.loads(line)["conversations"]]
        start = time.process_time()
        for encoding in backend.encode_batch_fast(texts):
            _ = encoding.ids
        spent += time.process_time() - start
    return spent


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--array", action="store_true", help="one JSON array, not JSON Lines")
    parser.add_argument("--distinct", type=int, help="repeat so many records")
    parser.add_argument("--keep", type=Path, help="write records and corpus here and leave them")
    parser.add_argument("--tree", type=Path, default=Path(__file__).resolve().parents[1])
    options = parser.parse_args()
    records = options.records
    distinct, added = min(options.distinct or records, records), records // 100
    results: dict[str, object] = {"records": records, "workers": options.workers}
    with ExitStack() as stack:
        at = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        at.mkdir(parents=True, exist_ok=True)
        write_world(at, distinct + added)
        for name, most, without in (
            ("new", records, -1),
            ("one_percent_more", records + added, -1),
            ("one_less", records + added, records // 2),
        ):
            found = chain(repeated(at, records, distinct), records_of(at, distinct, added))
            lines = (line for number, line in enumerate(islice(found, most)) if number != without)
            count = write_records(at / "rows.json", lines, array=options.array)
            spent = prepare(options.tree, at, options.workers)
            results[name] = {unit: round(value, 2) for unit, value in spent.items()}
            results[f"{name}_records_a_cpu_second"] = round(count / spent["cpu"])
            print(json.dumps(results), file=sys.stderr)
        results["index"] = open_and_resume(at / "out" / "d" / "train")
        results["tokenizer_cpu"] = round(tokenizer_alone(at, records_of(at, 0, distinct)), 2)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
