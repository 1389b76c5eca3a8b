"""Compile every pipeline to ``pipelines/compiled``, or check that what is committed there is up to date.

    python pipelines/compile.py [--check] [--out DIRECTORY] [--trainer-image IMAGE] [--launcher-image IMAGE]
                                [--data-image IMAGE] [--prefix PREFIX] [--s3-secret NAME]

The same sources give the same bytes. Give images by digest for a cluster.
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
#: Option to the environment variable that components and pipelines read it from, and what it is.
SETTINGS = {
    "trainer-image": ("VITA_TRAIN_TRAINER_IMAGE", "image of the steps that run the model, best by digest"),
    "launcher-image": ("VITA_TRAIN_LAUNCHER_IMAGE", "image of the steps that start training jobs"),
    "data-image": ("VITA_TRAIN_DATA_IMAGE", "image of the steps that fetch and check data"),
    "prefix": ("VITA_TRAIN_PREFIX", "prefix that the chart was installed with"),
    "s3-secret": ("VITA_TRAIN_S3_SECRET", "Secret with the keys of the object store; the chart's unless given"),
}


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
    for option, (_, meaning) in SETTINGS.items():
        parser.add_argument(f"--{option}", help=meaning)
    parser.add_argument("--out", type=Path, default=COMPILED, help="where the YAML files go")
    options = parser.parse_args()
    for option, (variable, _) in SETTINGS.items():
        if given := getattr(options, option.replace("-", "_")):
            os.environ[variable] = given
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
