"""Text records that the check of the structure goes through a processor second, and its memory.

    python benchmarks/structure_check.py [--records 5000000] [--ratio-records 300000]

Writes JSON Lines of conversations of two turns of some 60 words, checks them as ``vita-train data
check --no-media`` does (structure, text, repetition within and between splits), and samples what
all its processes hold. Then a smaller number of records as lines and as one array, in turn. Prints
one JSON object; ``array_of_lines`` is the ratio of the medians of the speeds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from text_preparation import Writer, resident

_CHECK = """
import sys
from pathlib import Path
from vita_train.data.check.run import CheckSettings, check_sources
from vita_train.data.check.targets import open_target
report = check_sources(open_target(Path(sys.argv[1])), CheckSettings(media=False))
assert report.ledger.used == int(sys.argv[2]), report.reasons
print(sum(report.found.values()))
"""
#: Texts that are made once; records take two of them each and a number.
_TEXTS = 200_000


def write_records(path: Path, records: int, *, array: bool) -> None:
    """Write a record file, an array or lines; no two records are alike."""
    writer, chance = Writer(), np.random.default_rng(1)
    asked = [json.dumps(text) for text in writer.texts(_TEXTS, 20)]
    answered = [json.dumps(text) for text in writer.texts(_TEXTS, 40)]
    with path.open("w") as stream:
        stream.write("[" if array else "")
        for first in range(0, records, _TEXTS):
            count = min(_TEXTS, records - first)
            order = chance.permutation(_TEXTS)[:count].tolist()
            rows = [
                f'{{"id": "record-{first + place}", "conversations": [{{"from": "human", "value": '
                f'{asked[place]}}}, {{"from": "gpt", "value": {answered[other]}}}]}}'
                for place, other in enumerate(order)
            ]
            joined = (",\n" if array else "\n").join(rows)
            stream.write((",\n" if array and first else "") + joined + ("" if array else "\n"))
        stream.write("]" if array else "")


def check(path: Path, records: int) -> dict[str, float]:
    """Check in a fresh process; return what it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(
        [sys.executable, "-c", _CHECK, str(path), str(records)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
    )
    most = 0
    while process.poll() is None:
        most = max(most, resident(process.pid))
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit("the check failed")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "records": records,
        "cpu_seconds": round(spent, 1),
        "records_a_cpu_second": round(records / spent),
        "megabytes": round(most / 2**20),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=5_000_000)
    parser.add_argument("--ratio-records", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    result: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        for name in ("lines", "array"):
            write_records(at / name, options.ratio_records, array=name == "array")
        speeds: dict[str, list[float]] = {"lines": [], "array": []}
        for _ in range(options.rounds):
            for name, found in speeds.items():
                found.append(check(at / name, options.ratio_records)["records_a_cpu_second"])
            result["records_a_cpu_second"] = speeds
        medians = {name: statistics.median(found) for name, found in speeds.items()}
        result["array_of_lines"] = round(medians["array"] / medians["lines"], 3)
        if options.records:
            write_records(at / "many", options.records, array=False)
            result["many"] = check(at / "many", options.records)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
