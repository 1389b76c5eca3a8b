"""How a step of the pipeline is committed: done once for its inputs, told about while it runs,
found again later."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from vita_train import __version__
from vita_train.console import say
from vita_train.errors import VitaError
from vita_train.pipeline.summary import headline
from vita_train.recipe.selection import Selection
from vita_train.runs.manifest import STEP_DIGEST, Manifest
from vita_train.runs.run import Run
from vita_train.storage.digest import digest_of

#: A file that gets one line for each change of a step's state; the console that shows a run follows
#: it.
STEPS_LOG = "VITA_TRAIN_STEPS_LOG"


def run_step(
    run: Run,
    step: str,
    selection: Selection,
    inputs: Callable[[], Mapping[str, Any]],
    work: Callable[[str], Manifest],
) -> Manifest | None:
    """Return a step's commit, doing the work first if there is none for these inputs.

    A step that was not asked for returns whatever it committed before, or None.
    """
    done = run.final(step)
    if not selection.picks(step):
        return done
    with _report_failure(run, step):
        digest = _digest_of(inputs())
        if done is not None and _digest(done) == digest and not selection.force:
            log_reused(run, step)
            return done
        _tell(run, step, "running")
        if (
            selection.force or step not in run.recipe.stages
        ):  # a stage decides itself what of its past still holds
            _forget(run, step)
        manifest = work(digest)
        if step in run.recipe.stages:  # the job has written its own final.json and progress.json
            _log_state(step, "done")
        else:
            run.commit(step, manifest)
            _tell(run, step, "done")
        reached = [
            f"{name} {value:.4g}, " for name, value in headline(run.recipe, manifest).items()
        ]
        say(f"{step}: done, {''.join(reached)}committed as {run.final_uri(step)}")
        return manifest


def is_committed(run: Run, step: str, inputs: Mapping[str, Any]) -> bool:
    """Say whether a step holds a commit for these inputs."""
    done = run.final(step)
    return done is not None and _digest(done) == _digest_of(inputs)


def log_reused(run: Run, step: str) -> None:
    """Tell that a step's commit is used again."""
    _log_state(step, "reused")
    say(f"{step}: committed already, nothing to do ({run.final_uri(step)})")


@contextmanager
def _report_failure(run: Run, step: str) -> Iterator[None]:
    """Note a failure in the step's progress.json and in the steps' log, and pass it on."""
    try:
        yield
    except Exception as error:
        failure = (
            error
            if isinstance(error, VitaError)
            else VitaError(f"{type(error).__name__}: {error}", code="VT-FAIL-016")
        )
        with suppress(VitaError):  # a store that is away is told less than why the step failed
            _tell(run, step, "failed", reason=str(failure), error=failure.report())
        raise


def _tell(run: Run, step: str, state: str, **more: Any) -> None:
    _log_state(step, state, **more)
    run.store.write(run.key(step, "progress.json"), json.dumps({"state": state, **more}).encode())


def _log_state(step: str, state: str, **more: Any) -> None:
    if path := os.environ.get(STEPS_LOG):
        with open(path, "a", encoding="utf-8") as file:
            file.write(
                json.dumps({"time": time.time(), "step": step, "state": state, **more}) + "\n"
            )


def _forget(run: Run, step: str) -> None:
    """Remove a commit that no longer holds, and the checkpoints that belong to it."""
    run.store.delete([run.final_key(step)])
    run.store.delete(run.store.list(run.key(step, "committed") + "/"))


def _digest_of(inputs: Mapping[str, Any]) -> str:
    return digest_of({"version": __version__, **inputs})


def _digest(manifest: Manifest) -> str:
    return str(manifest.lineage.get(STEP_DIGEST, manifest.digest))
