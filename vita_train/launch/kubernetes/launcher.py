"""One stage as a job on the cluster: created or taken up, and followed to its end."""

from __future__ import annotations

import re
import time
from dataclasses import replace

from vita_train.console import say
from vita_train.errors import StoppedError, UserError, VitaError
from vita_train.launch.backend import Outcome, StageJob
from vita_train.launch.kubernetes.api import Cluster, ConflictError, own_namespace
from vita_train.launch.kubernetes.failures import Failure, Reason
from vita_train.launch.kubernetes.job import (
    OURS,
    RESTARTS,
    SPEC_HASH,
    Object,
    TrainingJob,
    training_job,
)
from vita_train.launch.kubernetes.kind import JobKind
from vita_train.launch.kubernetes.kinds import choose
from vita_train.launch.kubernetes.monitor import JobMonitor, Say
from vita_train.launch.kubernetes.state import Phase, seconds
from vita_train.launch.kubernetes.task import task_settings
from vita_train.launch.kubernetes.timeouts import JobTimeouts
from vita_train.launch.kubernetes.workflow import (
    CancelWatch,
    Workflow,
    is_cancelled,
    own_workflow,
)
from vita_train.launch.process import on_stop
from vita_train.recipe.platform import Platform, needed_platform
from vita_train.runs.run import Run

_TURN = 0.5
_DELETE_WAIT = 20.0


class KubernetesBackend:
    """A job of the kind that the cluster serves, TrainJob before PyTorchJob.

    Args:
        platform: the cluster's settings; none reads them from their file.
        cluster: the API; none connects.
        out: takes each line of the job's progress and of rank 0's log.
    """

    kind = "auto"

    def __init__(
        self, platform: Platform | None = None, cluster: Cluster | None = None, out: Say = say
    ) -> None:
        self._given, self._cluster, self._out = platform, cluster, out

    @property
    def _platform(self) -> Platform:
        return self._given or needed_platform("training jobs go to Kubernetes", "launch.backend")

    def check(self, run: Run) -> str:
        """Say which image the pods get. That the cluster takes jobs is for ``vita-train cluster
        check`` to try.

        Raises:
            UserError: nothing says what the cluster is like.
        """
        return (
            f"Kubernetes, pods of {self._platform.image or 'an image that the chart does not name'}"
        )

    def run(self, job: StageJob) -> Outcome:
        """Create or take up the job and follow it to its end. Restarts are counted on the job
        itself, so that they outlive a launcher.

        Raises:
            UserError: a setting is refused, or nothing says what the cluster is like.
            VitaError: the API stays away.
        """
        platform = self._platform
        task = task_settings(job.task, job.resources.nproc)
        cluster = self._cluster or Cluster.connect(outage=platform.times.outage)
        kind = choose(self.kind, cluster.served())
        namespace = platform.namespace or own_namespace()
        workflow = own_workflow(cluster, own_namespace())
        described = training_job(
            job,
            platform=platform,
            namespace=namespace,
            task=task,
            workflow=workflow.name if workflow else "",
            owner=workflow.owner_in(namespace) if workflow else None,
        )
        launcher = Launcher(
            cluster,
            kind,
            described,
            workflow,
            restarts=job.run.recipe.launch.restarts,
            out=self._out,
        )
        try:
            launcher.run()
        except VitaError as failure:
            return Outcome(failure, is_final=True)
        # Or the next launcher would take up a job that is over, whether it committed or not
        launcher.delete()
        return Outcome(logs="the lines above")


class TrainJobBackend(KubernetesBackend):
    """TrainJobs of Kubeflow Trainer."""

    kind = "trainjob"


class PyTorchJobBackend(KubernetesBackend):
    """PyTorchJobs of the Training Operator."""

    kind = "pytorchjob"


class Launcher:
    """One job, from its creation to its end.

    Args:
        cluster: the API.
        backend: kind of job.
        job: what to run.
        workflow: what the launcher is a step of, if it is.
        restarts: times a retryable failure is started again, by whomever.
        out: takes each line of progress.
    """

    def __init__(
        self,
        cluster: Cluster,
        backend: JobKind,
        job: TrainingJob,
        workflow: Workflow | None,
        *,
        restarts: int,
        out: Say,
    ) -> None:
        self._cluster, self._backend, self._job, self._workflow = cluster, backend, job, workflow
        self._restarts, self._out = restarts, out
        self._timeouts = JobTimeouts(job.platform.times)
        self._name = job.name
        self._uid = ""
        self._used = 0
        self._stops: list[int] = []

    def run(self) -> None:
        """Bring the job to success, starting it again as often as allowed.

        Raises:
            VitaError: it failed for good, or the launcher was asked to stop.
        """
        preemptions = 0
        with (
            on_stop(self._stops.append),
            CancelWatch(self._cluster, self._workflow, self._out) as self._cancel,
        ):
            self._create_or_adopt()
            while failure := self._monitor():
                if (
                    failure.reason == Reason.PREEMPTED
                    and preemptions < self._job.platform.preemptions
                ):
                    # Counted apart: on a busy cluster they would use up what is meant for faults
                    preemptions += 1
                elif failure.reason.retryable and self._used < self._restarts:
                    self._used += 1
                else:
                    self.delete()
                    raise failure.error()
                self._out(
                    f"job {self._job.name}: {failure.reason}: {failure.what}; starting it again"
                )
                self.delete(wait=True)
                self._uid = ""
                self._create_or_adopt()

    def delete(self, *, wait: bool = False) -> None:
        """Delete the job and its pods; with ``wait``, return only when they are gone."""
        self._cluster.delete(self._backend.resource, self._job.namespace, self._job.name, self._uid)
        # The kubelet gives a pod its grace before it kills it
        deadline = time.monotonic() + (self._job.pod.grace + _DELETE_WAIT if wait else 0)
        while wait and time.monotonic() < deadline:
            found = self._cluster.read(self._backend.resource, self._job.namespace, self._job.name)
            if found is None or found["metadata"]["uid"] != self._uid:
                return
            time.sleep(1)

    def _create_or_adopt(self) -> None:
        """Create the job, or take up one of ours that is the same and not over."""
        turn = 1
        while True:
            self._check_stop()
            if found := self._at_work():
                if self._adopt(found):
                    return
                continue
            self._job = replace(self._job, name=f"{self._name}-{turn}" if turn > 1 else self._name)
            manifest = self._backend.manifest(self._job)
            # Behind the manifest's own annotations, so that the count is no part of the spec's
            # digest
            manifest["metadata"]["annotations"][RESTARTS] = str(self._used)
            try:
                self._uid = str(
                    self._cluster.create(self._backend.resource, manifest)["metadata"]["uid"]
                )
                self._out(
                    f"job {self._job.name}: created in {self._job.namespace}, {self._job.nodes} "
                    f"nodes of "
                    f"{self._job.nproc} ranks"
                )
                return
            except ConflictError:  # on its way out, or another launcher was faster
                found = self._cluster.read(
                    self._backend.resource, self._job.namespace, self._job.name
                )
            since = seconds(found["metadata"].get("deletionTimestamp")) if found else 0.0
            if since and time.time() - since > self._job.pod.grace + _DELETE_WAIT:
                turn += 1
                self._out(
                    f"job {self._job.name}: it does not go away, because a node with a pod of it "
                    f"does not "
                    "answer; leaving it"
                )
            else:
                time.sleep(_TURN)

    def _at_work(self) -> Object | None:
        """Return the job of this name, or of one taken in its place, that is not on its way out."""
        selector = ",".join(
            f"{name}={value}" for name, value in self._job.labels.items() if name in OURS
        )
        found, _ = self._cluster.objects(
            self._backend.resource, self._job.namespace, labelSelector=selector
        )
        ours = [
            job
            for job in found
            if not job["metadata"].get("deletionTimestamp")
            # Labels are cut and cleaned: the name alone is exact
            and re.fullmatch(rf"{re.escape(self._name)}(-[0-9]+)?", str(job["metadata"]["name"]))
        ]
        return min(ours, key=lambda job: str(job["metadata"]["name"]), default=None)

    def _hold(self, found: Object) -> None:
        """Go on with a job that is there, under the name it has."""
        self._job = replace(self._job, name=str(found["metadata"]["name"]))
        self._uid = str(found["metadata"]["uid"])

    def _adopt(self, found: Object) -> bool:
        """Take up a job that is there already; False when it was over, and is replaced."""
        self._hold(found)
        metadata = found["metadata"]
        state = self._backend.state(found)
        if (metadata.get("annotations") or {}).get(
            SPEC_HASH
        ) == self._job.spec_hash and state.phase != Phase.FAILED:
            self._used = max(self._used, int(metadata["annotations"].get(RESTARTS, 0)))
            self._out(f"job {self._job.name}: taken up, it is {state.phase}")
            return True
        if not state.phase.over:
            raise UserError(
                f"job {self._job.name} runs already, with other settings",
                code="VT-USE-054",
                where="launch",
                remedy="wait for it, delete it, or launch with the settings it has",
            )
        self._out(f"job {self._job.name}: an older one of this name {state.phase}; replacing it")
        self.delete(wait=True)
        self._uid = ""
        return False

    def _monitor(self) -> Failure | None:
        """Watch the job until it is over; None if it succeeded, else why it did not."""
        monitor = JobMonitor(
            self._cluster, self._backend, self._job, self._timeouts, self._check_stop, self._out
        )
        return monitor.until_over(self._restarts - self._used)

    def _check_stop(self) -> None:
        """End if the launcher was asked to: with the job if that was a cancel, without if only the
        launcher must go.

        A cancel is mostly seen in the Workflow, seconds before the signal. After a signal there may
        be less than one, so a job that is known is deleted by one call.
        """
        if not (cancelled := self._cancel.is_cancelled()) and not self._stops:
            return
        # A signal alone says nothing: a launcher's pod is also moved from node to node
        if not cancelled and not is_cancelled(self._cluster, self._workflow):
            raise StoppedError(
                "only the launcher was stopped; the job goes on",
                code="VT-STOP-001",
                where=self._job.name,
                remedy="the next launcher of the same step takes it up",
            )
        if not self._uid and (found := self._at_work()):
            self._hold(found)
        if self._uid:
            self.delete()
        raise StoppedError(
            "cancelled; the job is deleted",
            code="VT-STOP-002",
            where=self._job.name,
            remedy="run the same step again to resume from its last checkpoint",
        )
