"""Compile every pipeline to ``pipelines/compiled``, or check that what is committed there is up to date.

    python pipelines/compile.py [--check] [--image IMAGE] [--out DIRECTORY]

The same sources give the same bytes. Give the image by digest for a cluster.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMPILED = HERE / "compiled"


def compile_all(out: Path) -> list[Path]:
    """Write one YAML file for each pipeline and return the files."""
    from kfp import compiler

    from pipelines.ladder import ladder
    from pipelines.stages import STAGE_PIPELINES

    out.mkdir(parents=True, exist_ok=True)
    files = []
    for name, pipeline in {"ladder": ladder, **{f"stage-{key}": one for key, one in STAGE_PIPELINES.items()}}.items():
        path = out / f"{name}.yaml"
        compiler.Compiler().compile(pipeline, str(path))
        files.append(path)
    return files


def differences(committed: Path) -> list[str]:
    """Return a unified diff from the committed files to freshly compiled ones; empty if they are the same."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = {path.name: path.read_text() for path in compile_all(Path(scratch))}
    stored = {path.name: path.read_text() for path in committed.glob("*.yaml")}
    lines: list[str] = []
    for name in sorted(fresh.keys() | stored.keys()):
        lines += difflib.unified_diff(stored.get(name, "").splitlines(keepends=True),
                                      fresh.get(name, "").splitlines(keepends=True), f"committed/{name}", f"now/{name}")
    return lines


def main() -> int:
    """Run the command line; 1 when a check found differences."""
    parser = argparse.ArgumentParser(description="Compile the pipelines.")
    parser.add_argument("--check", action="store_true", help="compare with the committed files and write nothing")
    parser.add_argument("--image", help="image of every component, best by digest")
    parser.add_argument("--out", type=Path, default=COMPILED, help="where the YAML files go")
    options = parser.parse_args()
    if options.image:
        os.environ["VITA_TRAIN_IMAGE"] = options.image
    sys.path.insert(0, str(HERE.parent))
    if options.check:
        lines = differences(options.out)
        sys.stdout.writelines(lines)
        if lines:
            print("\nthe compiled pipelines are out of date: run python pipelines/compile.py", file=sys.stderr)
        return 1 if lines else 0
    for path in compile_all(options.out):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
