"""The work of a step of the pipeline in pods beside each other, as an Indexed Job."""

from __future__ import annotations

from vita_train.console import say
from vita_train.launch.kubernetes.api import Cluster, own_namespace
from vita_train.launch.kubernetes.indexedjob import IndexedJobs
from vita_train.launch.kubernetes.job import CACHE, SCRATCH, TrainingJob, job_name, trainer_image
from vita_train.launch.kubernetes.launcher import Launcher
from vita_train.launch.kubernetes.monitor import Say
from vita_train.launch.kubernetes.workflow import own_workflow
from vita_train.launch.worker import ENDPOINT
from vita_train.recipe.platform import Platform, merge_pod_settings, needed_platform
from vita_train.recipe.pod import PodSettings, StepPod
from vita_train.runs.run import Run
from vita_train.storage import host_cache


def run_pods(
    run: Run,
    step: str,
    digest: str,
    command: tuple[str, ...],
    pods: StepPod,
    *,
    platform: Platform | None = None,
    cluster: Cluster | None = None,
    out: Say = say,
) -> None:
    """Run a command in pods beside each other, and wait for all of them.

    Each knows its number by ``JOB_COMPLETION_INDEX``. A job that an earlier process left is taken
    up.

    Args:
        run, step: what the job is of.
        digest: of what goes into it: another one is another job.
        command: of every pod; it begins with ``python``.
        pods: how many, and what each gets beside the volumes and secrets of training pods.
        platform, cluster: none reads the settings from their file, and connects.
        out: takes each line of progress, and of the first pod's log.

    Raises:
        VitaError: the platform names no image, a pod failed for good, the API stays away, or this
            process was asked to stop.
    """
    platform = platform or needed_platform("pods of a step go to Kubernetes", "launch.settings")
    cluster = cluster or Cluster.connect(outage=platform.times.outage)
    namespace = platform.namespace or own_namespace()
    workflow = own_workflow(cluster, own_namespace())
    settings = pod_settings(platform, run, pods)
    endpoint = run.recipe.storage.endpoint
    job = TrainingJob(
        name=job_name(run.name, step, digest),
        namespace=namespace,
        run=run.name,
        stage=step,
        image=trainer_image(platform),
        command=command,
        nodes=pods.pods,
        nproc=1,
        pod=settings,
        platform=platform,
        env={
            "HOME": SCRATCH,
            host_cache.CACHE: CACHE,
            **({ENDPOINT: endpoint} if endpoint else {}),
            **settings.env,
        },
        owner=workflow.owner_in(namespace) if workflow else None,
        workflow=workflow.name if workflow else "",
    )
    launcher = Launcher(
        cluster,
        IndexedJobs(),
        job,
        workflow,
        restarts=run.recipe.launch.restarts,
        out=out,
    )
    launcher.run()
    # Else the next run of the step would take up a job that is over
    launcher.delete()


def pod_settings(platform: Platform, run: Run, pods: StepPod) -> PodSettings:
    """Return training pods' settings without their GPUs, with what the step asks for in the place
    of theirs."""
    settings = merge_pod_settings(platform.pod, [run.recipe.launch.settings.kubernetes.pod])
    stated = {
        "cpu": pods.cpu,
        "memory": pods.memory,
        "node_selector": dict(pods.node_selector),
        "tolerations": tuple(each.model_dump(exclude_defaults=True) for each in pods.tolerations),
    }
    return settings.model_copy(
        update={
            "gpu_resource": "",
            "devices": {},
            "metrics_port": 0,
            **{name: value for name, value in stated.items() if value},
        }
    )
