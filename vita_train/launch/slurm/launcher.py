"""One stage as a job in SLURM's queue: submitted or taken up, and followed to its end."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from vita_train.console import say
from vita_train.errors import PeerLostError, StoppedError, UserError
from vita_train.launch.backend import Outcome, StageJob
from vita_train.launch.process import on_stop
from vita_train.launch.slurm.controller import COMMANDS, AwayError, Controller, JobState
from vita_train.launch.slurm.declared import SlurmSettings
from vita_train.launch.slurm.ending import Ending, ending
from vita_train.launch.slurm.script import job_name, sbatch_script
from vita_train.runs.run import Run
from vita_train.storage.whole_file import whole_file

#: Seconds that a job which was taken away may need until the controller calls it over.
_TAKEN_AWAY = 60.0
#: Seconds between two looks for a signal.
_TURN = 0.2


class SlurmBackend:
    """Jobs of SLURM.

    Args:
        out: takes each line of the job's progress and of the first node's log.
    """

    def __init__(self, out: Callable[[str], None] = say) -> None:
        self._out = out

    def check(self, run: Run) -> str:
        """Say which partition the jobs go to.

        Raises:
            UserError: SLURM's commands are not here.
        """
        settings: SlurmSettings = run.recipe.launch.settings.slurm
        if missing := [name for name in COMMANDS if shutil.which(name) is None]:
            raise UserError(
                f"SLURM's commands are not here: {', '.join(missing)}",
                code="VT-USE-263",
                where="launch.backend",
                remedy="start from a machine of the cluster, or take another backend",
            )
        return f"SLURM, {settings.partition or 'the default'} partition"

    def run(self, job: StageJob) -> Outcome:
        """Submit or take up the job and follow it to its end. What SLURM itself puts back into the
        queue goes on as the same job; one that was preempted is submitted again, and one that met
        its time limit as often as the recipe says.

        Raises:
            UserError: SLURM refuses the job, or one of other settings is there.
            PeerLostError: the controller stays away.
        """
        settings: SlurmSettings = job.settings.slurm
        renewed = 0
        while True:
            launcher = Launcher(job, settings, self._out)
            try:
                end = launcher.run()
            except StoppedError as stopped:
                return Outcome(stopped, logs=str(launcher.folder), is_final=True)
            if end.met_time_limit and renewed < settings.renewals:
                renewed += 1
                self._out(f"stage {job.stage}: it met its time limit; submitting it again")
            elif end.was_preempted and settings.requeue:
                self._out(f"stage {job.stage}: it was preempted; submitting it again")
            else:
                return Outcome(end.failure, logs=str(launcher.folder))


class Launcher:
    """One job, from its submission to its end.

    Args:
        job: what to run.
        settings: of the recipe.
        out: takes each line of progress.
    """

    def __init__(self, job: StageJob, settings: SlurmSettings, out: Callable[[str], None]) -> None:
        self._job, self._settings, self._out = job, settings, out
        own = Path(settings.folder) / job.run.name / job.stage if settings.folder else None
        self.folder = (own or job.run.logs_dir(job.stage)).absolute()
        self._controller = Controller(settings.outage)
        self._number = 0
        self._stops: list[int] = []
        self._log = self.folder / "node-0.log"
        self._read = 0

    def run(self) -> Ending:
        """Bring the job to its end; say how it ended.

        Raises:
            StoppedError: SIGTERM or SIGINT came; the job is told to stop, and is over.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        # What an earlier job of the stage wrote has been told already
        self._read = self._log.stat().st_size if self._log.exists() else 0
        with on_stop(self._stops.append):
            self._number = self._take_up() or self._submit()
            end = self._follow()
            self._pass_on(last=True)
        return ending(self._number, end, self.folder, self._job.resources.nodes)

    def _take_up(self) -> int:
        """Return the number of the job that an earlier launcher left; 0 where there is none.

        Raises:
            UserError: there is one with other settings.
        """
        for number, digest in self._controller.find(job_name(self._job)):
            if digest != self._job.digest:
                raise UserError(
                    f"job {number} runs this stage already, with other settings",
                    code="VT-USE-264",
                    where=job_name(self._job),
                    remedy=f"wait for it, or take it away with scancel {number}",
                )
            self._out(f"job {number}: taken up")
            return number
        return 0

    def _submit(self) -> int:
        for path in self.folder.glob("node-*.error.json"):
            path.unlink(missing_ok=True)
        script = self.folder / "job.sbatch"
        with whole_file(script) as stream:
            stream.write(sbatch_script(self._job, self._settings, self.folder))
        deadline = time.monotonic() + self._settings.outage
        while True:
            self._check_stop()
            try:
                number = self._controller.submit(script)
            except AwayError as error:
                if time.monotonic() >= deadline:
                    raise PeerLostError(
                        f"SLURM's controller took no job in {self._settings.outage:.0f} s: {error}",
                        code="VT-PEER-014",
                        where=str(script),
                        remedy="run the same command again once it answers",
                    ) from error
                time.sleep(self._settings.poll)
                # It may have taken the job and lost the answer
                if number := self._take_up():
                    return number
                continue
            resources = self._job.resources
            self._out(
                f"job {number}: submitted, {resources.nodes} nodes of {resources.nproc} ranks"
            )
            return number

    def _follow(self) -> JobState:
        """Tell of the job until it is over; return its last state."""
        told: tuple[str, str, int] | None = None
        while True:
            seen = self._controller.look(self._number)
            if seen is None:
                return self._forgotten()
            self._pass_on()
            if (now := (seen.state, seen.reason, seen.restarts)) != told:
                told = now
                reason = f" ({seen.reason})" if seen.reason not in ("", "None") else ""
                again = f", put back into the queue {seen.restarts} times" if seen.restarts else ""
                self._out(f"job {self._number}: {seen.state.lower()}{reason}{again}")
            if seen.is_over:
                return seen
            # Signals are looked for between two looks at the controller, which other users ask too
            until = time.monotonic() + self._settings.poll
            while time.monotonic() < until:
                self._check_stop()
                time.sleep(_TURN)

    def _forgotten(self) -> JobState:
        """Judge a job that ended so long ago that the controller forgot it by the stage's
        commit."""
        is_done = self._job.run.final(self._job.stage) is not None
        state = "COMPLETED" if is_done else "NODE_FAIL"
        return JobState(state, "", code=0, signal=0, restarts=0, nodes="")

    def _check_stop(self) -> None:
        """End if the launcher was asked to, with its job: its steps are told first, so that they
        can save their state."""
        if not self._stops:
            return
        if self._number:
            seen = self._controller.look(self._number)
            if seen and seen.state in ("RUNNING", "COMPLETING", "SUSPENDED"):
                self._controller.stop(self._number)
                self._wait_over(self._settings.grace)
            self._controller.cancel(self._number)
            self._wait_over(_TAKEN_AWAY)
            self._pass_on(last=True)
        raise StoppedError(
            "cancelled; the job saved its state and is gone",
            code="VT-STOP-009",
            where=f"job {self._number}" if self._number else self._job.stage,
            remedy="run the same command to continue",
        )

    def _wait_over(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            seen = self._controller.look(self._number)
            if seen is None or seen.is_over:
                return
            time.sleep(self._settings.poll)

    def _pass_on(self, *, last: bool = False) -> None:
        """Tell what the first node's log has gained: whole lines, and with ``last`` the rest."""
        if not self._log.exists():
            return
        with self._log.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        whole = text if last else text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            self._out(line)
