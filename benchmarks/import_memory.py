"""How much memory importing a sharded checkpoint takes: far less than the checkpoint.

    python benchmarks/import_memory.py [--layers 24] [--keep DIR]

Writes a checkpoint in the released VITA-1.5 layout, filled with noise, then imports it in a fresh process. Prints one
JSON object: size of the checkpoint, of its largest tensor, and the peak of resident memory above what the process had
before the first byte was copied.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from vita_train.models.build import build_modules
from vita_train.models.checkpoint.stream import StoredTensor
from vita_train.models.layouts.places import VITA_MODULES, vita_place
from vita_train.models.layouts.vita_export import theirs, write_sharded
from vita_train.recipe.model import ModelSpec

_SHARD_BYTES = 500_000_000
_MEASURE = """
import json, re, sys, time
from pathlib import Path
from vita_train.models.layouts.importing import plan_import, write_import
from vita_train.models.layouts.source import open_source
from vita_train.recipe.model import ModelSpec
def megabytes(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
plan = plan_import(open_source(Path(sys.argv[1])), ModelSpec.model_validate_json(sys.argv[3]))
plan.ledger.check()
Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
before, start = megabytes("VmRSS"), time.perf_counter()
write_import(plan, Path(sys.argv[2]))
print(json.dumps({"tensors": len(plan.ledger.rows), "resident_mb_before": round(before, 1),
                  "peak_above_mb": round(megabytes("VmHWM") - before, 1),
                  "seconds": round(time.perf_counter() - start, 1)}))
"""


def main() -> None:
    """Generate, import, report."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--layers", type=int, default=24, help="of the language model, 2048 wide")
    arguments.add_argument("--keep", type=Path, help="directory to use and leave behind")
    given = arguments.parse_args()
    spec = ModelSpec.model_validate({
        "llm": {"hidden_size": 2048, "num_layers": given.layers, "num_heads": 16, "num_kv_heads": 4,
                "intermediate_size": 5632, "vocab_size": 32000},
        "speech_decoder": {"width": 1024}})
    with tempfile.TemporaryDirectory() as scratch:
        place = given.keep or Path(scratch)
        (place / "vita").mkdir(parents=True, exist_ok=True)
        with torch.device("meta"):
            modules = build_modules(spec, VITA_MODULES)
        tensors = {name: StoredTensor(tensor.info._replace(dtype="BF16"), noise)
                   for name, tensor in theirs(modules, vita_place).items()}
        write_sharded(tensors, place / "vita", _SHARD_BYTES)
        done = subprocess.run([sys.executable, "-c", _MEASURE, str(place / "vita"), str(place / "imported"),
                               spec.model_dump_json()], capture_output=True, text=True, check=True)
    sizes = [tensor.nbytes for tensor in tensors.values()]
    print(json.dumps({"checkpoint_mb": round(sum(sizes) / 2**20, 1), "largest_tensor_mb": round(max(sizes) / 2**20, 1),
                      **json.loads(done.stdout.strip().splitlines()[-1])}))


def noise(start: int, length: int) -> Iterator[bytes]:
    """Yield random bytes, a megabyte at a time."""
    block = os.urandom(min(length, 1 << 20)) if length else b""
    while length > 0:
        yield block[:length]
        length -= len(block)


if __name__ == "__main__":
    main()
