"""Compiled pipelines: which one runs a recipe, and compiling it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vita_train.ended import last_words
from vita_train.errors import UserError, VitaError
from vita_train.recipe.graph import uncovered
from vita_train.recipe.load import dump_recipe, load_recipe
from vita_train.recipe.schema import Recipe
from vita_train.recipe.selection import stage_graph

#: The recipe whose stages the shipped pipeline has, and that pipeline's name.
SHIPPED, LADDER = "tiny", "ladder"
_PREFIX = "vita-train-"
#: The shipped pipeline's name on a server.
LADDER_PIPELINE = _PREFIX + LADDER
#: Options of ``pipelines/compile.py`` with the variables that go before them here.
_VARIABLES = {
    "trainer-image": "VITA_TRAIN_TRAINER_IMAGE",
    "launcher-image": "VITA_TRAIN_LAUNCHER_IMAGE",
    "data-image": "VITA_TRAIN_DATA_IMAGE",
    "prefix": "VITA_TRAIN_PREFIX",
    "s3-secret": "VITA_TRAIN_S3_SECRET",
}


def pipeline_name(recipe: Recipe) -> str:
    """Return the name that the pipeline of a recipe has on a server."""
    name = LADDER if recipe.name == SHIPPED else recipe.name
    return _PREFIX + re.sub("[^a-z0-9]+", "-", name)


def serving_pipeline(recipe: Recipe) -> str:
    """Return the name of the pipeline to run a recipe with: the shipped one where it has the
    stages, else its own."""
    covered = not uncovered(stage_graph(load_recipe(SHIPPED)), stage_graph(recipe))
    return LADDER_PIPELINE if covered else pipeline_name(recipe)


def sources() -> Path:
    """Return the folder of ``pipelines`` and ``components``: the repository, or their copies in an
    installed package.

    Raises:
        VitaError: they are in neither place.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent, package / "kubeflow"):
        if (folder / "pipelines" / "compile.py").is_file():
            return folder
    raise VitaError(
        "the pipelines' sources are missing",
        code="VT-FAIL-005",
        where=str(package / "kubeflow"),
        remedy="install the package again",
    )


def compile_pipeline(recipe: Recipe, out: Path, settings: Mapping[str, str]) -> Path:
    """Compile the pipeline that runs a recipe, in a process of its own, and return the file.

    Args:
        recipe: the recipe.
        out: an empty folder.
        settings: options of ``pipelines/compile.py``: images and the names that the chart was
            installed with; its variables in the environment go first.

    Raises:
        UserError: it cannot be compiled.
    """
    command = [sys.executable, str(sources() / "pipelines" / "compile.py"), "--out", str(out)]
    if serving_pipeline(recipe) == LADDER_PIPELINE:
        file = out / f"{LADDER}.yaml"
    else:
        file = out / f"{recipe.name}.yaml"
        written = out / "recipe" / "recipe.yaml"
        written.parent.mkdir(parents=True)
        written.write_text(dump_recipe(recipe), encoding="utf-8")
        command += ["--recipe", str(written)]
    options = [
        word
        for name, value in settings.items()
        if name in _VARIABLES and not os.environ.get(_VARIABLES[name])
        for word in (f"--{name}", value)
    ]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    if done.returncode != 0 or not file.is_file():
        reason = last_words(done.returncode, done.stderr)
        raise UserError(
            f"the pipeline cannot be compiled: {reason.removeprefix('error: ')}",
            code="VT-USE-061",
            where=recipe.name,
            remedy="correct the recipe",
        )
    return file


def compiled_with(spec: Mapping[str, Any]) -> dict[str, str]:
    """Return the options that a compiled pipeline was compiled with, as far as it shows them.

    Args:
        spec: as a server keeps it: the pipeline, or pipeline and platform by the keys pipeline_spec
            and platform_spec.
    """
    pipeline, platform = spec.get("pipeline_spec", spec), spec.get("platform_spec", {})
    images = {
        name: executor.get("container", {}).get("image", "")
        for name, executor in pipeline.get("deploymentSpec", {}).get("executors", {}).items()
    }
    executors = (
        platform.get("platforms", {})
        .get("kubernetes", {})
        .get("deploymentSpec", {})
        .get("executors", {})
    )
    ours: Mapping[str, Any] = next(iter(executors.values()), {})
    prefixes = [
        str(volume.get("configMapName", "")) for volume in ours.get("configMapAsVolume", [])
    ]
    found = {
        "data-image": images.get("exec-data-fetch", ""),
        "trainer-image": images.get("exec-evaluate", ""),
        "launcher-image": next(
            (image for name, image in images.items() if name.startswith("exec-train-")), ""
        ),
        "prefix": next(
            (name.removesuffix("-platform") for name in prefixes if name.endswith("-platform")), ""
        ),
        "s3-secret": next(
            (str(secret.get("secretName", "")) for secret in ours.get("secretAsEnv", [])), ""
        ),
    }
    return {name: value for name, value in found.items() if value}
