"""Where a stage's job runs: on this machine, or on the cluster the launcher finds itself in."""

from __future__ import annotations

from vita_train.errors import UserError
from vita_train.launch.local import launch_local
from vita_train.manifest import Manifest
from vita_train.recipe.platform import PLATFORM, load_platform
from vita_train.recipe.schema import Recipe


def launch_stage(recipe: Recipe, stage: str, run: str, digest: str) -> Manifest:
    """Run a stage to its end and return the manifest it committed.

    Args:
        recipe: the run's recipe.
        stage: canonical stage id.
        run: the run's name.
        digest: of all that goes into the step; on a cluster a job is taken up by it.

    Raises:
        VitaError: as `launch_local` and `launch_on_cluster` raise.
    """
    platform = load_platform()
    backend = recipe.launch.backend
    if backend == "auto":
        backend = platform.backend if platform else "local"
    if backend == "local":
        return launch_local(recipe, stage, run)
    if platform is None:
        raise UserError(f"launch.backend is {backend}, but nothing says what the cluster is like",
                        where="launch.backend", remedy=f"let {PLATFORM} name the platform's settings")
    from vita_train.launch.cluster.launcher import launch_on_cluster

    return launch_on_cluster(recipe, stage, run, digest, platform, backend)
