"""Damaged media, and changed recipes, registries and records, in number.

    python benchmarks/fuzz.py

What is done with each is in the tests of the same names (`test_media_fuzz`, `test_fuzz`), which end
at the first that is neither used nor refused by an error of ours. Here their outcomes are counted,
with the most memory and time that one took, and what was written outside the folder of the work.
Writes ``benchmarks/results/fuzz.md``.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.unit.data.media.test_media_fuzz import Watched, fuzz
from tests.unit.recipe.test_fuzz import try_all

RESULTS = Path(__file__).parent / "results"


def table(outcomes: Counter[str], head: str) -> list[str]:
    """Return counts as a table of Markdown, the most frequent first."""
    rows = sorted(outcomes.items(), key=lambda item: (-item[1], item[0]))
    return [f"| {head} | files |", "| --- | ---: |", *(f"| {name} | {n:,} |" for name, n in rows)]


def main() -> None:
    """Try all, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--media", type=int, default=10_000)
    parser.add_argument("--texts", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=2)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        inside, around = Path(folder) / "work", Path(folder) / "around"
        for place in (inside, around):
            place.mkdir()
        before = Path.cwd()
        os.environ["TMPDIR"], tempfile.tempdir = str(around), str(around)
        os.chdir(around)
        began = time.monotonic()
        media = fuzz(inside, asked.media, asked.seed)
        media_seconds, began = time.monotonic() - began, time.monotonic()
        (inside / "texts").mkdir()
        texts = try_all(asked.texts, asked.seed, inside / "texts")
        texts_seconds = time.monotonic() - began
        outside = sorted(path.name for path in around.iterdir())
        outside += sorted(
            path.name for path in Path(folder).iterdir() if path not in (inside, around)
        )
        os.chdir(before)
    if outside:
        raise SystemExit(f"error: written outside: {outside}")
    lines = [
        "# Damaged and changed inputs",
        "",
        "Written by `benchmarks/fuzz.py`. Each was used, or refused by an error of ours that names "
        "it; nothing was written outside the folder of the work.",
        "",
        f"**{media.total():,} damaged media** of every format that is read, in "
        f"{media_seconds:.0f} s (seed {asked.seed}): at most "
        f"{Watched.most / 2**20:.0f} MiB in a process, at most {Watched.slowest:.1f} s for a file.",
        "",
        *table(media, "outcome"),
        "",
        f"**{texts.total():,} changed recipes, registries and record files**, in "
        f"{texts_seconds:.0f} s.",
        "",
        *table(texts, "outcome"),
        "",
    ]
    RESULTS.joinpath("fuzz.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
