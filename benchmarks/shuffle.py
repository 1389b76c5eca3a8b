"""Memory and time of a shuffle of many small records into shards.

    python benchmarks/shuffle.py [--records 2000000 20000000] [--shards 128]

Writes records that are little more than a key, the worst case for memory, and cuts them anew,
shuffled, in a fresh process for each size. Then it reads the shards: each key must be there once,
and of neighbours in the input hardly any may be neighbours still. Prints one JSON object a size;
memory is the most that was resident, of the whole process, and ``wanted`` is under 512 MB. Needs
disk for four times the records, some 3 GB.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

WANTED = 512
_SHUFFLE = """
import json, resource, sys
from pathlib import Path
from vita_train.data.select.reshard import ReshardSettings, reshard
source, out, shards = sys.argv[1:]
reshard([Path(source)], Path(out), ReshardSettings(shards=int(shards), seed=1))
used = resource.getrusage(resource.RUSAGE_SELF)
status = Path("/proc/self/status").read_text().split()
print(json.dumps({
    "cpu": round(used.ru_utime + used.ru_stime, 1),
    "megabytes": round(int(status[status.index("VmHWM:") + 1]) / 1024),
}))
"""


def write_records(path: Path, records: int) -> None:
    """Write so many records with keys from 0 on."""
    with path.open("w") as stream:
        for key in range(records):
            stream.write(f'{{"id": "text_flan_{key:08d}", "image": []}}\n')


def check(folder: Path, records: int) -> float:
    """Return the share of keys that follow the key before them.

    Raises:
        SystemExit: a key is missing or there twice.
    """
    seen, following, last = np.zeros(records, bool), 0, -1
    for path in sorted(folder.glob("part-*.jsonl")):
        keys = np.array(re.findall(rb"flan_(\d+)", path.read_bytes()), dtype="S20").astype(np.int64)
        if seen[keys].any() or len(np.unique(keys)) < len(keys):
            raise SystemExit(f"{path.name}: a key is there twice")
        seen[keys] = True
        following += int((np.diff(keys, prepend=last) == 1).sum())
        last = keys[-1]
    if not seen.all():
        raise SystemExit("keys are missing")
    return following / records


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, nargs="+", default=[2_000_000, 20_000_000])
    parser.add_argument("--shards", type=int, default=128)
    options = parser.parse_args()
    for records in options.records:
        with tempfile.TemporaryDirectory() as folder:
            source, out = Path(folder) / "keys.jsonl", Path(folder) / "out"
            write_records(source, records)
            done = subprocess.run(
                [sys.executable, "-c", _SHUFFLE, str(source), str(out), str(options.shards)],
                stdout=subprocess.PIPE,
                check=True,
            )
            figures = {
                "records": records,
                "bytes": source.stat().st_size,
                **json.loads(done.stdout),
                "wanted": WANTED,
                "still_neighbours": check(out, records),
            }
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
