"""Does a run of the pipelines come to its end here, and does a terminated one leave no job? Both
are tried with the smallest run there is."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from vita_train.console import Check, check
from vita_train.errors import UserError
from vita_train.pipeline.compiled import LADDER_PIPELINE
from vita_train.pipeline.server import PipelineServer

Say = Callable[[str], None]
#: The run: a world that is made in seconds, and one stage of a few steps that waits for no other.
_RECIPE, _STAGE = "smoke", "0.vision"
_SMALL = (
    "data.source.world.scale=0.005",
    "data.source.world.test_size=2",
    'launch.settings.kubernetes.pod.gpu_resource=""',
    'launch.settings.kubernetes.pod.cpu="1"',
    "launch.settings.kubernetes.pod.memory=4Gi",
)
#: What makes the stage last until it is terminated.
_ENDLESS = f"stages.{_STAGE}.steps=1000000"
_OVER = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")


@dataclass(frozen=True)
class Timeouts:
    """Seconds that are waited for something, and between two looks."""

    run: float = 1800.0
    """For a run's end, or its job."""
    gone: float = 180.0
    """For the job of a terminated run to be gone."""
    poll: float = 2.0


def check_pipelines(
    server: PipelineServer,
    jobs: Callable[[str], int],
    *,
    out: Say,
    timeouts: Timeouts = Timeouts(),
    service_account: str = "",
) -> list[Check]:
    """Return the outcome of a run that is waited for, and of one that is terminated once its job is
    there.

    Args:
        server: that holds our pipelines.
        jobs: gives how many jobs a run of ours has at the moment.
        out: takes a line for each run that is started.
        timeouts: how long to wait.
        service_account: what the steps run as; empty takes the server's default.
    """
    trial = _Trial(server, jobs, out, timeouts, service_account, f"check-{uuid.uuid4().hex[:8]}")
    return [check("pipeline run", trial.succeeds), check("terminated run", trial.stops)]


@dataclass(frozen=True)
class _Trial:
    server: PipelineServer
    jobs: Callable[[str], int]
    out: Say
    timeouts: Timeouts
    service_account: str
    name: str

    def succeeds(self) -> str:
        """Start a run and wait for its end."""
        started, run = time.monotonic(), self._start()
        state = self._wait(lambda: self._over(run), self.timeouts.run)
        if state != "SUCCEEDED":
            raise self._failed(run, f"it is {state or 'not over'}", self.timeouts.run)
        return f"a run of recipe {_RECIPE} succeeded in {time.monotonic() - started:.0f} s"

    def stops(self) -> str:
        """Terminate a run that trains, and see its job gone."""
        run = self._start(_ENDLESS)
        found = self._wait(
            lambda: "job" if self.jobs(self.name) else self._over(run), self.timeouts.run
        )
        if found != "job":
            raise self._failed(run, f"it started no job: {found or 'not over'}", self.timeouts.run)
        self.server.terminate(run)
        asked = time.monotonic()
        if not self._wait(lambda: "" if self.jobs(self.name) else "gone", self.timeouts.gone):
            raise self._failed(
                run, "it was terminated and its job is still there", self.timeouts.gone
            )
        return f"its job was gone {time.monotonic() - asked:.0f} s after Terminate"

    def _start(self, *overrides: str) -> str:
        run = self.server.start(
            LADDER_PIPELINE,
            {
                "recipe": _RECIPE,
                "run": self.name,
                "storage_root": "",
                "overrides": [*_SMALL, *overrides],
                "steps": f"..{_STAGE}",
                "force": False,
            },
            name=self.name,
            experiment="vita-train",
            service_account=self.service_account,
        )
        self.out(f"run {self.name}: {self.server.page(run)}")
        return run

    def _over(self, run: str) -> str:
        state = self.server.state(run)
        return state if state in _OVER else ""

    def _wait(self, look: Callable[[], str], seconds: float) -> str:
        """Return what a look finds, or nothing after so many seconds."""
        deadline = time.monotonic() + seconds
        while not (found := look()) and time.monotonic() < deadline:
            time.sleep(self.timeouts.poll)
        return found

    def _failed(self, run: str, what: str, waited: float) -> UserError:
        return UserError(
            f"run {self.name}: {what}, after at most {waited:.0f} s",
            code="VT-USE-234",
            where=self.server.page(run),
            remedy="look at the log of the step that failed or waits there",
        )
