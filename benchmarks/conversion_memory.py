"""How much memory converting a sharded checkpoint takes: far less than the checkpoint.

    python benchmarks/conversion_memory.py [--layers 24] [--keep DIR]

Writes a checkpoint in the released VITA-1.5 layout, filled with noise; imports it; exports what was
imported in the
layouts own, vita, hf and internvl, each in a fresh process and with all the checks of the command.
Prints one JSON
object a line. Peaks are above what the process had before the first byte was read, sampled every
few milliseconds:

- ``own_mb``: memory that only this process has, and that must be there;
- ``resident_mb``: with pages of mapped files in it, which the kernel takes back whenever something
needs the room.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from vita_train.models.build import build_modules
from vita_train.recipe.model import ModelSpec
from vita_train.weights.formats.tensor_locations import VITA_MODULES, vita_location
from vita_train.weights.formats.vita_export import theirs, write_sharded
from vita_train.weights.stream import StoredTensor

_SHARD_BYTES = 500_000_000
_SAMPLED = """
import json, re, sys, threading, time
from pathlib import Path
import transformers.modeling_utils, transformers.models.auto.modeling_auto
def megabytes():
    told = Path("/proc/self/status").read_text()
    return [int(re.search(name + r":\\s+(\\d+)", told)[1]) / 1024 for name in ("RssAnon", "VmRSS")]
def measured(work):
    most, done = [0.0, 0.0], threading.Event()
    def sample():
        while not done.wait(0.005):
            most[:] = map(max, most, megabytes())
    before, start = megabytes(), time.perf_counter()
    threading.Thread(target=sample, daemon=True).start()
    work()
    done.set()
    own, resident = (round(peak - base, 1) for peak, base in zip(most, before))
    seconds = round(time.perf_counter() - start, 1)
    print(json.dumps({"own_mb": own, "resident_mb": resident, "seconds": seconds}))
"""
_IMPORT = """
from vita_train.weights.formats.importing import plan_import, write_import
from vita_train.weights.formats.source import open_source
from vita_train.recipe.model import ModelSpec
spec = ModelSpec.model_validate_json(sys.argv[2])
place = Path(sys.argv[1])
measured(lambda: write_import(plan_import(open_source(place / "vita"), spec), place / "imported"))
"""
_EXPORT = """
import vita_train.weights.auto
from vita_train.models.build import build_modules
from vita_train.weights.load import load_modules
from vita_train.weights.formats.exporting import TARGETS, model_dtype
from vita_train.recipe.schema import Recipe
recipe, place, to = Recipe.model_validate_json(sys.argv[2]), Path(sys.argv[1]), sys.argv[3]
listed = json.loads((place / "imported" / "import.json").read_text())["modules"]
def work():
    modules = build_modules(recipe.model, listed, dtype=model_dtype(recipe), empty=True)
    load_modules(modules, {name: [place / "imported" / file for file in entry["files"]]
                           for name, entry in listed.items()}, mapped=True)
    TARGETS[to](modules.eval(), recipe, place / "corpus", place / f"exported-{to}")
measured(work)
"""


def main() -> None:
    """Generate, import, export, report."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument(
        "--layers", type=int, default=24, help="of the language model, 2048 wide"
    )
    arguments.add_argument("--keep", type=Path, help="directory to use and leave behind")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        convert(given.keep or Path(scratch), given.layers)


def convert(place: Path, layers: int) -> None:
    """Generate a checkpoint in a directory and convert it there and back."""
    spec = ModelSpec.model_validate(
        {
            "llm": {
                "hidden_size": 2048,
                "num_layers": layers,
                "num_heads": 16,
                "num_kv_heads": 4,
                "intermediate_size": 5632,
                "vocab_size": 32000,
            },
            "speech_decoder": {"width": 1024},
        }
    )
    stage = {
        "objective": "next_token",
        "data": {"caption": 1.0},
        "trainable": {"projector": 1e-3},
        "steps": 1,
    }
    recipe = json.dumps(
        {
            "name": "conversion",
            "model": spec.model_dump(mode="json"),
            "stages": {"1.1": stage},
            "data": {"source": {"none": {"kind": "records", "registry": "none.json"}}},
        }
    )
    (place / "vita").mkdir(parents=True, exist_ok=True)
    write_tokenizer(place / "corpus" / "tokenizer")
    with torch.device("meta"):
        modules = build_modules(spec, VITA_MODULES)
    tensors = {
        name: StoredTensor(tensor.info._replace(dtype="BF16"), noise)
        for name, tensor in theirs(modules, vita_location, spec).items()
    }
    write_sharded(tensors, place / "vita", _SHARD_BYTES)
    sizes = [tensor.nbytes for tensor in tensors.values()]
    print(
        json.dumps(
            {
                "checkpoint_mb": round(sum(sizes) / 2**20, 1),
                "tensors": len(sizes),
                "largest_tensor_mb": round(max(sizes) / 2**20, 1),
            }
        ),
        flush=True,
    )
    report("import", _IMPORT, str(place), spec.model_dump_json())
    for layout in ("own", "vita", "hf", "internvl"):
        report(f"export --to {layout}", _EXPORT, str(place), recipe, layout)


def report(what: str, script: str, *arguments: str) -> None:
    """Run a script in a fresh process and print what it measured."""
    done = subprocess.run(
        [sys.executable, "-c", _SAMPLED + script, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    print(
        json.dumps({"what": what, **json.loads(done.stdout.strip().splitlines()[-1])}), flush=True
    )


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer of single bytes: as much of a prepared corpus as an export reads."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={letter: place for place, letter in enumerate(alphabet)}, merges=[])
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(str(folder))


def noise(start: int, length: int) -> Iterator[bytes]:
    """Yield small bfloat16 numbers, a megabyte at a time."""
    numbers = (
        torch.randn(1 << 19, generator=torch.Generator().manual_seed(start)).mul_(0.02).bfloat16()
    )
    block = numbers.view(torch.uint8).numpy().tobytes()
    while length > 0:
        yield block[:length]
        length -= len(block)


if __name__ == "__main__":
    main()
