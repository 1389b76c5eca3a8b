"""The shards of a preparation shared out among pods of their own, where a recipe or the chart asks
for several.

    python -m vita_train.pipeline.fan_out RECIPE RUN PODS

is what each pod runs: it makes the parts that fall to its number and puts them into the run's
store. The step then joins them, as it joins those that it made itself.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from vita_train.data.prepare.exchange import PartExchange
from vita_train.errors import EXIT_DONE, VitaError
from vita_train.launch.worker import ENDPOINT, say_last_words
from vita_train.pipeline.step_inputs import require_manifest
from vita_train.recipe.load import dump_recipe, load_recipe
from vita_train.recipe.platform import load_platform, merge_step_pods
from vita_train.recipe.pod import StepPod
from vita_train.runs.run import RECIPE, Run
from vita_train.storage.disk_errors import machine_faults
from vita_train.storage.factory import open_file

STEP = "prepare"


def shared_out(run: Run, digest: str, *, force: bool) -> PartExchange | None:
    """Have pods prepare the shards beside each other, and return where their parts are; None where
    this process does it all.

    Args:
        run: of which.
        digest: of the step's inputs.
        force: nothing that was made before is to be used.

    Raises:
        VitaError: a pod failed for good.
    """
    pods = pods_of(run)
    if pods is None:
        return None
    from vita_train.launch.kubernetes.step_pods import run_pods

    exchange = parts_of(run)
    if force:
        exchange.clear()
    run.store.write(run.key(STEP, RECIPE), dump_recipe(run.recipe).encode())
    command = ("python", "-m", __name__, run.uri(STEP, RECIPE), run.name, str(pods.pods))
    run_pods(run, STEP, digest, command, pods)
    return parts_of(run)


def pods_of(run: Run) -> StepPod | None:
    """Return what the preparation's pods get where there are several; None elsewhere."""
    platform = load_platform()
    if platform is None or platform.backend == "local" or run.is_local:
        return None
    pods = merge_step_pods(STEP, [platform.steps, run.recipe.launch.settings.kubernetes.steps])
    return pods if pods.pods > 1 else None


def parts_of(run: Run) -> PartExchange:
    """Return where the parts of a run are."""
    return PartExchange(run.store, run.key(STEP, "parts"))


def prepare_index(run: Run, machine: int, machines: int) -> int:
    """Make the parts of one pod; return how many.

    Raises:
        VitaError: as of `prepare_share`.
    """
    from vita_train.data.prepare.run import prepare_share

    require_manifest(run, "data_fetch", by=STEP)
    return prepare_share(
        run.recipe,
        run.present_raw() / "registry.json",
        run.corpus_dir,
        parts_of(run),
        machine=machine,
        machines=machines,
        workers=os.cpu_count() or 1,
    )


def main() -> int:
    """Run the command line; the pod's number is in ``JOB_COMPLETION_INDEX``."""
    uri, name, pods = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="vita-train-") as folder:
        try:
            with machine_faults():
                store, key = open_file(uri, endpoint=os.environ.get(ENDPOINT) or None)
                path = Path(folder) / RECIPE
                path.write_bytes(store.read(key))
                run = Run(load_recipe(str(path)), name)
                prepare_index(run, int(os.environ["JOB_COMPLETION_INDEX"]), int(pods))
        except VitaError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            say_last_words(error, Path(folder))
            return error.exit_code
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
