"""The launcher against a real API server, scheduler and PyTorchJob controller; pods are processes
of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from tests.helpers.cluster.control_plane import ControlPlane
from tests.helpers.cluster.kubelet import Kubelet
from tests.helpers.cluster.waiting import jobs_of, make_workflow, until
from tests.helpers.errors import raises_code
from vita_train.errors import EXIT_REFUSED, StoppedError, UserError, VitaError
from vita_train.launch.backend import stage_job
from vita_train.launch.kubernetes.api import Cluster
from vita_train.launch.kubernetes.job import TrainingJob, job_name
from vita_train.launch.kubernetes.launcher import Launcher, PyTorchJobBackend
from vita_train.launch.kubernetes.pytorchjob import PyTorchJobs
from vita_train.launch.kubernetes.workflow import WORKFLOWS, Workflow
from vita_train.launch.stage import finish
from vita_train.recipe.load import load_recipe
from vita_train.recipe.platform import Platform, QueueSpec, TimeSpec
from vita_train.recipe.pod import PodSettings
from vita_train.runs.run import Run

POD = PodSettings(gpu_resource="", cpu="100m", memory="1Gi", shm="64Mi", scratch="64Mi", grace=30)
JOBS = PyTorchJobs()
HERE = Path(__file__).parent


def small_job(
    namespace: str,
    code: str,
    *,
    nodes: int = 2,
    image: str = "this-machine",
    times: dict[str, float] | None = None,
    **pod: Any,
) -> TrainingJob:
    """Return a job whose pods run some Python."""
    platform = Platform(image=image, times=TimeSpec(**(times or {})))
    return TrainingJob(
        name=job_name(namespace, "1.1", code),
        namespace=namespace,
        run=namespace,
        stage="1.1",
        image=image,
        command=("python", "-c", code),
        nodes=nodes,
        nproc=1,
        pod=POD.model_copy(update=pod),
        platform=platform,
    )


def launch(
    cluster: Cluster, job: TrainingJob, *, restarts: int = 0, workflow: str = ""
) -> list[str]:
    """Run a job to its end, as a step of a Workflow if one is named, delete it, and return what was
    printed."""
    lines: list[str] = []
    launcher = Launcher(
        cluster,
        JOBS,
        job,
        Workflow(job.namespace, workflow, "") if workflow else None,
        restarts=restarts,
        out=lines.append,
    )
    launcher.run()
    launcher.delete(wait=True)
    return lines


def _pods(control_plane: ControlPlane, namespace: str) -> list[Any]:
    return list(client.CoreV1Api(control_plane.api).list_namespaced_pod(namespace).items)


@pytest.mark.usefixtures("node")
def test_every_node_runs_and_the_first_ones_log_is_ours(
    cluster: Cluster, namespace: str, tmp_path: Path, control_plane: ControlPlane
) -> None:
    # A job is done with its first pod: this one waits for the other, as ranks do.
    code = (
        f"import os, pathlib, time; here = pathlib.Path({str(tmp_path)!r})\n"
        "(here / os.environ['PET_NODE_RANK']).touch()\n"
        "while len(list(here.iterdir())) < 2: time.sleep(0.1)\n"
        "for i in range(200): print('line', i, 'of', os.environ['PET_NNODES'], flush=True)"
    )
    lines = launch(cluster, small_job(namespace, code))
    assert [line for line in lines if line.startswith("line")] == [
        f"line {i} of 2" for i in range(200)
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]
    assert jobs_of(control_plane, namespace) == []


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize(
    ("change", "code", "reason", "words"),
    [
        ({"image": "registry.example/missing:1", "times": {"start": 3}}, "", "IMAGE", "missing:1"),
        ({"cpu": "900", "times": {"queue": 20}}, "", "UNSCHEDULABLE", "Insufficient cpu"),
        ({"memory": "150Mi"}, "x = bytearray(10**9); input()", "OOM", "more memory"),
        ({}, "raise ValueError('shapes differ')", "CRASH", "shapes differ"),
        ({"times": {"run": 3}}, "import time; time.sleep(600)", "DEADLINE", "run for"),
        (
            {"secret_env": {"KEY": {"secret": "nowhere", "key": "k"}}, "times": {"start": 3}},
            "",
            "USER_ERROR",
            "nowhere",
        ),
    ],
)
def test_a_failure_is_told_by_its_reason(
    cluster: Cluster,
    namespace: str,
    control_plane: ControlPlane,
    change: dict[str, Any],
    code: str,
    reason: str,
    words: str,
) -> None:
    if "secret_env" in change:
        change = {
            **change,
            "secret_env": PodSettings.model_validate(
                {"secret_env": change["secret_env"]}
            ).secret_env,
        }
    with pytest.raises(VitaError, match=reason) as caught:
        launch(cluster, small_job(namespace, code, nodes=1, **change))
    assert words in str(caught.value)
    until(lambda: not _pods(control_plane, namespace), seconds=60)


@pytest.mark.usefixtures("node")
def test_a_success_without_a_commit_is_none_and_does_not_stay(
    cluster: Cluster,
    namespace: str,
    tmp_path: Path,
    control_plane: ControlPlane,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = small_job(namespace, "print('done')", nodes=1)
    monkeypatch.setattr("vita_train.launch.kubernetes.launcher.training_job", lambda *_, **__: job)
    recipe, printed = load_recipe("smoke", [f"storage.root={tmp_path}"]), list[str]()
    with raises_code(VitaError, "VT-FAIL-004"):
        finish(
            PyTorchJobBackend(
                job.platform.model_copy(update={"namespace": namespace}), cluster, printed.append
            ),
            stage_job(Run(recipe, "run"), "1.1", "digest"),
        )
    assert "done" in printed
    until(lambda: jobs_of(control_plane, namespace) == [])


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("room", ["0", "1"])
def test_a_quota_without_room_for_all_pods_ends_the_wait(
    cluster: Cluster, namespace: str, control_plane: ControlPlane, room: str
) -> None:
    client.CoreV1Api(control_plane.api).create_namespaced_resource_quota(
        namespace, {"metadata": {"name": "team"}, "spec": {"hard": {"pods": room}}}
    )
    with pytest.raises(VitaError, match=r"UNSCHEDULABLE.*exceeded quota: team"):
        launch(cluster, small_job(namespace, "import time; time.sleep(600)", times={"queue": 15}))


@pytest.mark.usefixtures("node")
def test_workers_that_pod_security_refuses_are_told_though_the_first_pod_runs(
    cluster: Cluster, namespace: str, control_plane: ControlPlane
) -> None:
    client.CoreV1Api(control_plane.api).patch_namespace(
        namespace, {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    )
    # The controller's template of the workers' init container, like its default one, has no
    # security context.
    with pytest.raises(UserError, match='violates PodSecurity "restricted') as caught:
        launch(cluster, small_job(namespace, "import time; time.sleep(600)", times={"start": 3}))
    assert "--pytorch-init-container-template-file" in caught.value.remedy


@pytest.mark.usefixtures("node")
def test_a_refusal_is_never_tried_again(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    code = (
        f"import os, json, pathlib; p = pathlib.Path({str(tmp_path)!r}, str(os.getpid())); "
        f"p.touch()\n"
        "said = {'code': 2, 'what': 'no pictures', 'where': 'recipe.yaml:7', 'remedy': 'name "
        "some', 'tails': {}}\n"
        "pathlib.Path(os.environ['VITA_TRAIN_TERMINATION_LOG']).write_text(json.dumps(said)); "
        "raise SystemExit(2)"
    )
    with pytest.raises(UserError, match="no pictures") as caught:
        launch(cluster, small_job(namespace, code, nodes=1), restarts=3)
    assert caught.value.exit_code == EXIT_REFUSED
    assert len(list(tmp_path.iterdir())) == 1


def test_a_killed_pod_starts_the_whole_job_again(
    cluster: Cluster, namespace: str, node: Kubelet, tmp_path: Path
) -> None:
    code = (
        f"import os, pathlib, time; here = pathlib.Path({str(tmp_path)!r}); rank = "
        f"os.environ['PET_NODE_RANK']\n"
        "tries = len(list(here.glob(f'{rank}-*'))); (here / f'{rank}-{tries}').touch()\n"
        "while tries == 0 or len(list(here.glob('*-1'))) < 2: time.sleep(0.1)"
    )
    job = small_job(namespace, code)

    def kill() -> None:
        until(lambda: len(list(tmp_path.iterdir())) == 2)
        node.kill_pod(f"{job.name}-worker-0")

    killer = threading.Thread(target=kill)
    killer.start()
    lines = launch(cluster, job, restarts=1)
    killer.join()
    assert any("starting it again" in line for line in lines)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0-0", "0-1", "1-0", "1-1"]


def test_a_queue_that_takes_a_job_off_and_admits_it_again_costs_no_restart(
    cluster: Cluster, namespace: str, node: Kubelet, control_plane: ControlPlane, tmp_path: Path
) -> None:
    """Kueue admits a job by setting ``suspend`` to false and preempts it by setting it to true;
    here the test does."""
    code = (
        f"import os, pathlib, time; here = pathlib.Path({str(tmp_path)!r})\n"
        "first = not list(here.iterdir()); (here / str(os.getpid())).touch()\n"
        "time.sleep(600 if first else 0)"
    )
    job = small_job(namespace, code, nodes=1)
    queued = job.platform.model_copy(update={"queue": QueueSpec(name="team")})
    job, lines = replace(job, platform=queued), list[str]()

    def suspend(wanted: bool) -> None:
        client.CustomObjectsApi(control_plane.api).patch_namespaced_custom_object(
            JOBS.resource.group,
            JOBS.resource.version,
            namespace,
            JOBS.resource.plural,
            job.name,
            {"spec": {"runPolicy": {"suspend": wanted}}},
        )

    launcher = Launcher(cluster, JOBS, job, None, restarts=0, out=lines.append)
    running = threading.Thread(target=launcher.run)
    running.start()
    until(lambda: jobs_of(control_plane, namespace))
    assert jobs_of(control_plane, namespace)[0]["spec"]["runPolicy"]["suspend"] is True
    time.sleep(1)
    assert not _pods(control_plane, namespace), "nobody has admitted it"
    suspend(False)
    until(lambda: len(list(tmp_path.iterdir())) == 1)
    suspend(True)
    until(lambda: not _pods(control_plane, namespace))
    assert running.is_alive()
    suspend(False)
    running.join(timeout=60)
    assert not running.is_alive()
    assert len(list(tmp_path.iterdir())) == 2
    assert sum(line.endswith("suspended") for line in lines) == 2, lines
    launcher.delete(wait=True)


def _code(job: TrainingJob, *, workflow: str = "", name: str = "") -> str:
    """The program of a launcher that runs a job, under another name if one is given."""
    renamed = f"t.replace(job, name={name!r})" if name else "job"
    return (
        f"import sys; sys.path.insert(0, {str(HERE)!r}); import test_launcher as t, kubernetes\n"
        "from vita_train.errors import VitaError\n"
        f"job = t.small_job({job.namespace!r}, {job.command[2]!r}, nodes={job.nodes})\n"
        "api = kubernetes.config.new_client_from_config()\n"
        f"try: t.launch(t.Cluster(api, outage=60), {renamed}, workflow={workflow!r})\n"
        "except VitaError as error: print(error, flush=True); sys.exit(error.exit_code)\n"
    )


def _in_process(
    control_plane: ControlPlane, job: TrainingJob, workflow: str = ""
) -> subprocess.Popen[str]:
    """A launcher of its own for a job, as a process that can be killed."""
    env = {**os.environ, "KUBECONFIG": str(control_plane.kubeconfig)}
    return subprocess.Popen(
        [sys.executable, "-c", _code(job, workflow=workflow)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_a_launcher_that_was_killed_is_followed_by_one_that_takes_up_its_job(
    cluster: Cluster, namespace: str, control_plane: ControlPlane, tmp_path: Path, node: Kubelet
) -> None:
    code = (
        f"import os, pathlib, time; here = pathlib.Path({str(tmp_path)!r}); (here / "
        f"str(os.getpid())).touch()\n"
        "while not (here / 'go').exists(): time.sleep(0.2)"
    )
    job = small_job(namespace, code, nodes=1)
    first = _in_process(control_plane, job)
    until(lambda: len(list(tmp_path.iterdir())) == 1)
    first.send_signal(signal.SIGKILL)
    first.wait()
    (tmp_path / "go").touch()
    lines = launch(cluster, job)
    assert any("taken up" in line for line in lines)
    assert len(list(tmp_path.iterdir())) == 2  # one process, and the word to go


def test_two_launchers_at_once_make_one_job(
    namespace: str, control_plane: ControlPlane, tmp_path: Path, node: Kubelet
) -> None:
    code = (
        f"import os, pathlib, time; (pathlib.Path({str(tmp_path)!r}) / str(os.getpid())).touch(); "
        f"time.sleep(5)"
    )
    job = small_job(namespace, code, nodes=1)
    both = [_in_process(control_plane, job) for _ in range(2)]
    outs = [one.communicate(timeout=90)[0] for one in both]
    assert len(list(tmp_path.iterdir())) == 1, outs
    assert 0 in [one.returncode for one in both]


def test_a_cancelled_launcher_leaves_no_pod(
    namespace: str, control_plane: ControlPlane, tmp_path: Path, node: Kubelet
) -> None:
    code = (
        f"import os, pathlib, time; (pathlib.Path({str(tmp_path)!r}) / str(os.getpid())).touch(); "
        f"time.sleep(600)"
    )
    launcher = _in_process(control_plane, small_job(namespace, code, nodes=2))
    until(lambda: len(list(tmp_path.iterdir())) == 2)
    launcher.send_signal(signal.SIGTERM)
    out = launcher.communicate(timeout=30)[0]
    assert launcher.returncode == StoppedError.exit_code, out
    until(
        lambda: not _pods(control_plane, namespace) and not jobs_of(control_plane, namespace),
        seconds=40,
    )


@pytest.mark.usefixtures("node", "workflows")
@pytest.mark.parametrize(
    ("change", "survives"),
    [
        ({}, True),  # only the launcher's pod was evicted: Kubeflow Pipelines starts the step again
        ({"activeDeadlineSeconds": 0}, False),
    ],
)  # how Kubeflow Pipelines terminates a run
def test_an_evicted_launcher_leaves_its_job_and_a_terminated_run_does_not(
    namespace: str,
    control_plane: ControlPlane,
    tmp_path: Path,
    change: dict[str, Any],
    survives: bool,
) -> None:
    make_workflow(control_plane, namespace, "run", phase="Running")
    code = (
        f"import os, pathlib, time; here = pathlib.Path({str(tmp_path)!r}); (here / "
        f"str(os.getpid())).touch()\n"
        "while not (here / 'go').exists(): time.sleep(0.2)"
    )
    job = small_job(namespace, code, nodes=1)
    launcher = _in_process(control_plane, job, workflow="run")
    until(lambda: len(list(tmp_path.iterdir())) == 1)
    client.CustomObjectsApi(control_plane.api).patch_namespaced_custom_object(
        WORKFLOWS.group, WORKFLOWS.version, namespace, WORKFLOWS.plural, "run", {"spec": change}
    )
    launcher.send_signal(signal.SIGTERM)
    out = launcher.communicate(timeout=30)[0]
    assert launcher.returncode == StoppedError.exit_code, out
    if not survives:
        until(
            lambda: not _pods(control_plane, namespace) and not jobs_of(control_plane, namespace),
            seconds=40,
        )
        return
    (tmp_path / "go").touch()
    lines = launch(Cluster(control_plane.api, outage=60), job, workflow="run")
    assert any("taken up" in line for line in lines)
    assert len(list(tmp_path.iterdir())) == 2  # one process, and the word to go


@pytest.mark.usefixtures("node", "workflows")
@pytest.mark.parametrize(
    "turn", range(int(os.environ.get("VITA_TRAIN_TEST_TERMINATIONS", "8")) // 4)
)
def test_a_terminated_run_leaves_no_job_though_its_step_is_killed_at_once(
    namespace: str, control_plane: ControlPlane, tmp_path: Path, turn: int
) -> None:
    """Kubeflow Pipelines' own launcher dies at SIGTERM, and the container is killed within a second
    of it. The cancel stands in the Workflow from 0.5 s (4 s are usual) before that.

    Four runs a turn; VITA_TRAIN_TEST_TERMINATIONS asks for more of them.
    """
    number = 4
    jobs = [
        replace(
            small_job(namespace, "import time; time.sleep(600)", nodes=1),
            name=f"terminated-{place}",
        )
        for place in range(number)
    ]
    steps = [
        _as_a_step(control_plane, job, f"run-{place}", tmp_path / f"{place}.log")
        for place, job in enumerate(jobs)
    ]
    until(lambda: len(jobs_of(control_plane, namespace)) == number, seconds=120)
    until(lambda: len(_pods(control_plane, namespace)) == number, seconds=120)
    for place, step in enumerate(steps):
        client.CustomObjectsApi(control_plane.api).patch_namespaced_custom_object(
            WORKFLOWS.group,
            WORKFLOWS.version,
            namespace,
            WORKFLOWS.plural,
            f"run-{place}",
            {"spec": {"activeDeadlineSeconds": 0}},
        )
        time.sleep(0.5)
        step.send_signal(signal.SIGTERM)  # which the parent dies of, and its child never hears
        step.wait()
        time.sleep(0.2)
        with suppress(ProcessLookupError):
            os.killpg(step.pid, signal.SIGKILL)
    until(lambda: not jobs_of(control_plane, namespace), seconds=60)
    for place in range(number):
        assert "VT-STOP-002" in (tmp_path / f"{place}.log").read_text().splitlines()[-1]


def _as_a_step(
    control_plane: ControlPlane, job: TrainingJob, workflow: str, log: Path
) -> subprocess.Popen[bytes]:
    """Start a launcher as the child of a process that dies at SIGTERM, as a step of a Workflow."""
    make_workflow(control_plane, job.namespace, workflow, phase="Running")
    child = _code(job, workflow=workflow, name=job.name)
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    return subprocess.Popen(
        [sys.executable, "-c", parent],
        env={**os.environ, "KUBECONFIG": str(control_plane.kubeconfig)},
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def test_unknown_fields_are_refused_and_not_dropped(
    cluster: Cluster, namespace: str, control_plane: ControlPlane
) -> None:
    manifest = JOBS.manifest(small_job(namespace, "", nodes=1))
    manifest["spec"]["runPolicies"] = {}
    with pytest.raises(UserError, match="runPolicies"):
        cluster.create(JOBS.resource, manifest)
    assert jobs_of(control_plane, namespace) == []


@pytest.mark.usefixtures("node")
def test_a_job_of_the_same_name_with_other_settings_is_not_taken_for_ours(
    cluster: Cluster, namespace: str, control_plane: ControlPlane
) -> None:
    job = small_job(namespace, "import time; time.sleep(600)", nodes=1)
    cluster.create(JOBS.resource, JOBS.manifest(job))
    other = replace(job, nproc=2)
    with pytest.raises(UserError, match="other settings"):
        launch(cluster, other)
    [left] = jobs_of(control_plane, namespace)
    cluster.delete(JOBS.resource, namespace, job.name, left["metadata"]["uid"])
