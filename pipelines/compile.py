"""Compile the shipped pipelines to ``pipelines/compiled``, or the pipeline of any recipe.

    python pipelines/compile.py [--recipe RECIPE | --check] [--out DIRECTORY] [--trainer-image
    IMAGE]
                                [--launcher-image IMAGE] [--data-image IMAGE] [--prefix PREFIX]
                                [--s3-secret NAME]

``--check`` says whether the committed files are up to date: the same sources give the same bytes.
Give images by digest for a cluster.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vita_train.recipe.schema import Recipe

HERE = Path(__file__).resolve().parent
COMPILED = HERE / "compiled"
#: Where the pipeline of a recipe goes unless told.
BUILD = Path("build") / "pipelines"
#: Option to the environment variable that components and pipelines read it from, and what it is.
SETTINGS = {
    "trainer-image": (
        "VITA_TRAIN_TRAINER_IMAGE",
        "image of the steps that run the model, best by digest",
    ),
    "launcher-image": ("VITA_TRAIN_LAUNCHER_IMAGE", "image of the steps that start training jobs"),
    "data-image": ("VITA_TRAIN_DATA_IMAGE", "image of the steps that fetch and check data"),
    "prefix": ("VITA_TRAIN_PREFIX", "prefix that the chart was installed with"),
    "s3-secret": (
        "VITA_TRAIN_S3_SECRET",
        "Secret with the keys of the object store; the chart's unless given",
    ),
}


def compile_all(out: Path) -> list[Path]:
    """Write the shipped pipelines, the ladder and one for each of its stages, and return the
    files."""
    from pipelines.stages import stage_pipeline
    from vita_train.pipeline.compiled import LADDER, SHIPPED
    from vita_train.recipe.load import load_recipe

    recipe = load_recipe(SHIPPED)
    files = [compile_recipe(recipe, out / f"{LADDER}.yaml")]
    for stage in recipe.stages:
        name = f"vita-train-stage-{stage.replace('.', '-')}"
        files.append(
            _write(
                stage_pipeline(recipe, stage, name=name, default=SHIPPED),
                out / f"stage-{stage}.yaml",
            )
        )
    return files


def compile_recipe(recipe: Recipe, path: Path, picked: Collection[str] | None = None) -> Path:
    """Write the pipeline of a recipe, or of some of its steps, and return the file."""
    from pipelines.build import recipe_pipeline
    from vita_train.pipeline.compiled import pipeline_name
    from vita_train.recipe.load import one_line
    from vita_train.recipe.presets import preset_names

    # In one line: kfp writes defaults into a comment.
    default = recipe.name if recipe.name in preset_names() else one_line(recipe)
    return _write(
        recipe_pipeline(recipe, name=pipeline_name(recipe), default=default, picked=picked), path
    )


def _write(pipeline: Any, path: Path) -> Path:
    from kfp import compiler

    path.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(pipeline, str(path))
    return path


def differences(committed: Path) -> list[str]:
    """Return a unified diff from the committed files to freshly compiled ones; empty if they are
    the same."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = {path.name: path.read_text() for path in compile_all(Path(scratch))}
    stored = {path.name: path.read_text() for path in committed.glob("*.yaml")}
    lines: list[str] = []
    for name in sorted(fresh.keys() | stored.keys()):
        lines += difflib.unified_diff(
            stored.get(name, "").splitlines(keepends=True),
            fresh.get(name, "").splitlines(keepends=True),
            f"committed/{name}",
            f"now/{name}",
        )
    return lines


def _compile_one(name: str, out: Path) -> int:
    from vita_train.errors import VitaError
    from vita_train.recipe.check import check_recipe
    from vita_train.recipe.load import load_recipe

    try:
        recipe = load_recipe(name)
        check_recipe(recipe)
    except VitaError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(compile_recipe(recipe, out / f"{recipe.name}.yaml"))
    return 0


def main() -> int:
    """Run the command line; 1 when a check found differences, 2 when a recipe is wrong."""
    parser = argparse.ArgumentParser(description="Compile the pipelines.")
    parser.add_argument(
        "--recipe", help="compile the pipeline of this recipe: a shipped one's name, or a file"
    )
    parser.add_argument(
        "--check", action="store_true", help="compare with the committed files and write nothing"
    )
    for option, (_, meaning) in SETTINGS.items():
        parser.add_argument(f"--{option}", help=meaning)
    parser.add_argument(
        "--out",
        type=Path,
        help=f"where the YAML files go; {COMPILED.name} beside this file, or with --recipe {BUILD}",
    )
    options = parser.parse_args()
    for option, (variable, _) in SETTINGS.items():
        if given := getattr(options, option.replace("-", "_")):
            os.environ[variable] = given
    sys.path.insert(0, str(HERE.parent))
    if options.recipe:
        return _compile_one(options.recipe, options.out or BUILD)
    if options.check:
        lines = differences(options.out or COMPILED)
        sys.stdout.writelines(lines)
        if lines:
            print(
                "\nthe compiled pipelines are out of date: run python pipelines/compile.py",
                file=sys.stderr,
            )
        return 1 if lines else 0
    for path in compile_all(options.out or COMPILED):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
