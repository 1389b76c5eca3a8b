"""Where a stage's job runs: on this machine, or on the cluster the launcher finds itself in."""

from __future__ import annotations

from vita_train.errors import UserError
from vita_train.launch.local import launch_local
from vita_train.manifest import Manifest
from vita_train.recipe.platform import PLATFORM, load_platform
from vita_train.recipe.schema import Recipe


def launch_stage(recipe: Recipe, stage: str, run: str) -> Manifest:
    """Run a stage to its end and return the manifest it committed. Raises what `launch_local` raises."""
    platform = load_platform()
    backend = recipe.launch.backend
    if backend == "auto":
        backend = platform.backend if platform else "local"
    if backend == "local":
        return launch_local(recipe, stage, run)
    if platform is None:
        raise UserError(f"launch.backend is {backend}, but nothing says what the cluster is like",
                        where="launch.backend", remedy=f"let {PLATFORM} name the platform's settings")
    raise UserError("jobs on a cluster cannot be started by this version", where="launch.backend",
                    remedy="set launch.backend=local")
