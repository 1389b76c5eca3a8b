"""Fetch from a hostile server with kills, and check that all of it arrives.

    python benchmarks/fetch_kills.py            # 20 kills, 40 files of 3 MB and an archive in parts

The server drops connections, answers 429 and 500, lies about lengths and is slow. After each kill
-9 nothing that is not whole may stand under a final name; in the end every byte is compared.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.helpers.fetch_kills import killed_fetch


def main() -> None:
    """Run once and print what happened as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--files", type=int, default=40)
    parser.add_argument("--megabytes", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        outcome = killed_fetch(
            Path(folder) / "to",
            kills=given.kills,
            files=given.files,
            size=given.megabytes * 10**6,
            seed=given.seed,
        )
    print(json.dumps({**asdict(outcome), "seconds": round(time.monotonic() - began, 1)}))


if __name__ == "__main__":
    main()
