"""Can training jobs run here? Each thing that they need, tried as the launcher's own account."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence

from vita_train.console import Check, check
from vita_train.errors import UserError
from vita_train.launch.kubernetes.api import Cluster, own_namespace
from vita_train.launch.kubernetes.job import RUN_LABEL, TrainingJob, label_value
from vita_train.launch.kubernetes.kind import JobKind
from vita_train.launch.kubernetes.kinds import choose
from vita_train.launch.kubernetes.launcher import Launcher
from vita_train.launch.kubernetes.rbac import JOB_VERBS, NEEDED
from vita_train.recipe.platform import Platform
from vita_train.recipe.pod import PodSettings
from vita_train.storage.factory import open_store
from vita_train.storage.store_probe import try_store

Say = Callable[[str], None]
#: What the job of a trial does: every library of a training image, in a rank that torchrun started.
_TRIAL = (
    "python",
    "-m",
    "torch.distributed.run",
    "--nproc-per-node",
    "1",
    "-m",
    "vita_train.preflight.selfcheck",
    "trainer",
)
#: Seconds for which a store that does not answer is tried again: a wrong address should be reported
#: soon.
_RETRY_TIMEOUT = 10.0


def check_cluster(
    cluster: Cluster,
    platform: Platform,
    stores: Sequence[str] = (),
    *,
    is_trial: bool = False,
    out: Say,
) -> list[Check]:
    """Return the outcome of every check, in order. One that fails does not keep the others from
    being made.

    Args:
        cluster: the API.
        platform: the cluster's settings.
        stores: URIs below which runs lie.
        is_trial: run a job of one small pod without GPUs to its end, and delete it.
        out: takes the lines of that job.
    """
    job = _small_job(platform)
    checks: list[tuple[str, Callable[[], str]]] = [
        ("image", lambda: _image(platform)),
        (
            "kind of job",
            lambda: f"{_backend(cluster, platform).resource.kind} ({platform.backend})",
        ),
        ("RBAC", lambda: _check_rbac(cluster, _backend(cluster, platform), job.namespace)),
        ("job accepted", lambda: _accepted(cluster, _backend(cluster, platform), job)),
        *((f"store {uri}", lambda uri=uri: _committed(uri)) for uri in stores),
    ]
    if is_trial:
        checks.append(
            ("job run", lambda: _run_trial_job(cluster, _backend(cluster, platform), job, out))
        )
    return [check(name, work) for name, work in checks]


def jobs_of(cluster: Cluster, platform: Platform, run: str) -> int:
    """Return how many jobs a run has at the moment, those that are being deleted not counted."""
    jobs, _ = cluster.objects(
        _backend(cluster, platform).resource,
        platform.namespace or own_namespace(),
        labelSelector=f"{RUN_LABEL}={label_value(run)}",
    )
    return sum(not job["metadata"].get("deletionTimestamp") for job in jobs)


def _committed(uri: str) -> str:
    try_store(open_store(uri, retry_timeout=_RETRY_TIMEOUT))
    return "can be written, read and committed to"


def _small_job(platform: Platform) -> TrainingJob:
    small = PodSettings.model_validate(
        {
            **platform.pod.model_dump(),
            "gpu_resource": "",
            "devices": {},
            "cpu": "1",
            "memory": "4Gi",
            "shm": "64Mi",
            "scratch": "256Mi",
            "grace": 30,
        }
    )
    return TrainingJob(
        name=f"vita-check-{uuid.uuid4().hex[:8]}",
        namespace=platform.namespace or own_namespace(),
        run="check",
        stage="check",
        image=platform.image,
        command=_TRIAL,
        nodes=1,
        nproc=1,
        env={"HOME": "/tmp"},
        pod=small,
        platform=platform,
    )


def _image(platform: Platform) -> str:
    if not platform.image:
        raise UserError(
            "no image of the training pods is named",
            code="VT-USE-073",
            where="platform.image",
            remedy="set the chart's images.trainer",
        )
    if "@sha256:" in platform.image:
        return platform.image
    return f"{platform.image}; without a digest, a job that is started again may get another one"


def _backend(cluster: Cluster, platform: Platform) -> JobKind:
    return choose("auto" if platform.backend == "local" else platform.backend, cluster.served())


def _check_rbac(cluster: Cluster, backend: JobKind, namespace: str) -> str:
    needed = {(backend.resource.group, backend.resource.plural): JOB_VERBS, **NEEDED}
    missing = [
        f"{verb} {resource}{f'.{group}' if group else ''}"
        for (group, resource), verbs in needed.items()
        for verb in sorted(verbs)
        if not cluster.may(verb, group, resource, namespace)
    ]
    if missing:
        raise UserError(
            f"this account may not {', '.join(missing)}",
            code="VT-USE-074",
            where=f"namespace {namespace}",
            remedy="use the launcher's service account of the chart, or name this one in "
            "launcher.extraSubjects",
        )
    return f"all that a launcher does in {namespace}"


def _accepted(cluster: Cluster, backend: JobKind, job: TrainingJob) -> str:
    cluster.create(backend.resource, backend.manifest(job), dry_run=True)
    return f"the API server takes a {backend.resource.kind} of ours"


def _run_trial_job(cluster: Cluster, backend: JobKind, job: TrainingJob, out: Say) -> str:
    lines: list[str] = []

    def take(line: str) -> None:
        lines.append(line)
        out(line)

    launcher = Launcher(cluster, backend, job, None, restarts=0, out=take)
    launcher.run()
    launcher.delete(wait=True)
    if not any(line.startswith("trainer ") for line in lines):
        raise UserError(
            "the job ended well, but its log could not be read",
            code="VT-USE-075",
            where=f"job {job.name}",
            remedy="what keeps logs from being read is said above",
        )
    return "a pod started, its rank ended well, and its log was read"
