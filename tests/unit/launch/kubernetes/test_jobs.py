"""Training jobs as objects: what the API's published definitions accept, and how their state is
read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jsonschema
import pytest

from tests.helpers.definitions import trainer_definition
from tests.helpers.errors import raises_code
from tests.helpers.no_source import NO_SOURCE
from vita_train.errors import RecipeError, UserError
from vita_train.launch.backend import StageJob, stage_job
from vita_train.launch.kubernetes.job import SPEC_HASH, TrainingJob, job_name, training_job
from vita_train.launch.kubernetes.job_view import JobView
from vita_train.launch.kubernetes.kind import JobKind
from vita_train.launch.kubernetes.kinds import choose
from vita_train.launch.kubernetes.pytorchjob import PyTorchJobs
from vita_train.launch.kubernetes.state import Phase
from vita_train.launch.kubernetes.trainjob import TrainJobs
from vita_train.recipe.platform import Platform
from vita_train.recipe.pod import PodSettings
from vita_train.recipe.schema import Recipe
from vita_train.runs.run import Run
from vita_train.training.observability import metrics

BACKENDS: tuple[JobKind, ...] = (PyTorchJobs(), TrainJobs())
FULL = PodSettings(
    devices={"rdma/hca": 8},
    env={"NCCL_DEBUG": "WARN"},
    secret_env={"AWS_ACCESS_KEY_ID": {"secret": "s3", "key": "id"}},  # type: ignore[dict-item]
    service_account="trainer",
    image_pull_secrets=("registry",),
    node_selector={"pool": "gpu"},
    tolerations=({"key": "gpu", "operator": "Exists"},),
    volumes=({"name": "data", "emptyDir": {}},),
    volume_mounts=({"name": "data", "mountPath": "/data"},),
    labels={"team": "omni"},
    lock_memory=True,
)


def _recipe(**launch: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "jobs",
            "storage": {"root": "s3://b/runs"},
            "launch": {"nodes": 3, "nproc": 8, **launch},
            "data": NO_SOURCE,
            "stages": {
                "1.1": {
                    "objective": "next_token",
                    "data": {"a": 1.0},
                    "trainable": {"llm": 1e-3},
                    "steps": 1,
                }
            },
        }
    )


def _job(platform: Platform | None = None, digest: str = "d", **launch: Any) -> TrainingJob:
    platform = platform or Platform(
        image="registry.example/trainer@sha256:0",
        pod=PodSettings.model_validate(FULL.model_dump(exclude_unset=True)),
    )
    return training_job(_stage_job(digest, **launch), platform=platform, namespace="team")


def _stage_job(digest: str = "d", **launch: Any) -> StageJob:
    return stage_job(Run(_recipe(**launch), "r"), "1.1", digest)


def _pod(**settings: Any) -> dict[str, Any]:
    return {"kubernetes": {"pod": settings}}


def _strict(schema: Any) -> Any:
    """A definition's schema as an API server with strict field validation reads it: unknown keys
    are errors."""
    if isinstance(schema, list):
        return [_strict(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: _strict(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    if isinstance(schema.get("properties"), dict) and not schema.get(
        "x-kubernetes-preserve-unknown-fields"
    ):
        result.setdefault("additionalProperties", False)
    return result


def test_a_trainjob_fits_the_published_definition() -> None:
    definition = trainer_definition("trainjobs")
    version = next(
        one for one in definition["spec"]["versions"] if one["name"] == TrainJobs.resource.version
    )
    schema = _strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    manifest = TrainJobs().manifest(_job())
    jsonschema.validate(manifest, schema)
    manifest["spec"]["runtimePatches"][0][
        "podSpecOverrides"
    ] = []  # the check itself would see a stale name
    with pytest.raises(jsonschema.ValidationError, match="podSpecOverrides"):
        jsonschema.validate(manifest, schema)


def _pod_template(backend: JobKind, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(backend, PyTorchJobs):
        template = manifest["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
    else:
        jobset = manifest["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]
        template = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    assert isinstance(template, dict)
    return template


def _pod_spec(backend: JobKind, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    spec = _pod_template(backend, manifest)["spec"]
    assert isinstance(spec, dict)
    return spec


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.resource.kind)
def test_pods_ask_for_every_rank_and_mount_what_they_write_to(backend: JobKind) -> None:
    manifest = backend.manifest(_job())
    pod = _pod_spec(backend, manifest)
    container = pod["containers"][0]
    assert container["name"] == backend.container
    asked = container.get("resources") or manifest["spec"]["trainer"]["resourcesPerNode"]
    assert asked["limits"] == asked["requests"]
    assert asked["limits"]["nvidia.com/gpu"] == "8"
    assert asked["limits"]["rdma/hca"] == "8"
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert (
        mounted
        == {volume["name"] for volume in pod["volumes"]}
        == {"shm", "scratch", "cache", "data"}
    )
    written = {mount["mountPath"] for mount in container["volumeMounts"]}
    env = {
        entry["name"]: entry for entry in container.get("env") or manifest["spec"]["trainer"]["env"]
    }
    # The root file system is read-only: whatever is written to must be mounted.
    assert {env["HOME"]["value"], env["VITA_TRAIN_CACHE"]["value"]} <= written
    assert env["AWS_ACCESS_KEY_ID"]["valueFrom"] == {"secretKeyRef": {"name": "s3", "key": "id"}}
    assert pod["terminationGracePeriodSeconds"] == 300


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.resource.kind)
def test_pods_fit_the_restricted_level(backend: JobKind) -> None:
    pod = _pod_spec(backend, backend.manifest(_job(Platform(image="i"))))
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    [container] = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    allowed = {
        "emptyDir",
        "persistentVolumeClaim",
        "secret",
        "configMap",
        "projected",
        "downwardAPI",
        "csi",
    }
    assert all(set(volume) - {"name"} <= allowed for volume in pod["volumes"])


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.resource.kind)
def test_pods_say_where_each_rank_exports_its_metrics(backend: JobKind) -> None:
    def parts(**launch: Any) -> tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]:
        manifest = backend.manifest(_job(Platform(image="i"), nproc=2, **launch))
        container = _pod_spec(backend, manifest)["containers"][0]
        env = container.get("env") or manifest["spec"]["trainer"]["env"]
        return (
            _pod_template(backend, manifest),
            container,
            {entry["name"]: entry["value"] for entry in env},
        )

    template, container, env = parts(settings=_pod(metrics_port=9400, annotations={"a": "b"}))
    assert env[metrics.PORT] == "9400"
    assert template["metadata"]["annotations"] == {
        "a": "b",
        "vita-train.dev/metrics-0": "9400",
        "vita-train.dev/metrics-1": "9401",
    }
    assert (
        template["metadata"]["labels"]["vita-train.dev/stage"] == "1.1"
    )  # what a PodMonitor selects by
    if isinstance(backend, PyTorchJobs):  # Trainer refuses ports in patches
        assert container["ports"] == [
            {"name": "metrics-0", "containerPort": 9400},
            {"name": "metrics-1", "containerPort": 9401},
        ]
    template, container, env = parts()
    assert metrics.PORT not in env
    assert "ports" not in container
    assert template["metadata"]["annotations"] == {}


def test_a_pytorchjob_has_one_master_and_a_pod_for_each_further_node() -> None:
    replicas = PyTorchJobs().manifest(_job())["spec"]["pytorchReplicaSpecs"]
    assert (replicas["Master"]["replicas"], replicas["Worker"]["replicas"]) == (1, 2)
    assert list(PyTorchJobs().manifest(_job(nodes=1))["spec"]["pytorchReplicaSpecs"]) == ["Master"]


def test_names_follow_from_what_a_job_does_and_leave_room_for_jobset() -> None:
    stages = ("0.llm", "0.vision", "2.1b", "a-stage-with-a.long_name-of-its-own", "7")
    names = {job_name("run", stage, digest) for stage in stages for digest in ("a", "b")}
    assert len(names) == 2 * len(stages)
    assert all(len(name) <= 40 and name[0].isalpha() and "." not in name for name in names)
    assert job_name("run", "2.1a", "d") == job_name("run", "2.1a", "d")
    assert job_name("run", "1.1", "d") != job_name("run1", ".1", "d")


def test_the_hash_sees_what_is_computed_and_not_who_asked() -> None:
    platform = Platform(image="i")
    one = _job(platform)
    assert one.metadata()["annotations"][SPEC_HASH] == one.spec_hash
    assert _job(platform.model_copy(update={"image": "j"})).spec_hash != one.spec_hash
    assert _job(platform, nodes=2).spec_hash != one.spec_hash
    owned = training_job(
        _stage_job(),
        platform=platform,
        namespace="team",
        workflow="w",
        owner={"kind": "Workflow", "uid": "1"},
    )
    assert owned.spec_hash == one.spec_hash


def test_the_recipe_lies_over_the_platform_and_the_task_over_both() -> None:
    platform = Platform(
        image="i", pod=PodSettings(env={"A": "1", "B": "1"}, cpu="4", tolerations=({"key": "a"},))
    )
    job = training_job(
        _stage_job(settings=_pod(env={"B": "2", "C": "2"}, memory="1Gi")),
        platform=platform,
        namespace="n",
        task=PodSettings(env={"C": "3"}, tolerations=({"key": "b"},)),
    )
    assert job.pod.env == {"A": "1", "B": "2", "C": "3"}
    assert (job.pod.cpu, job.pod.memory) == ("4", "1Gi")
    assert job.pod.tolerations == ({"key": "a"}, {"key": "b"})
    # A volume has one source: another one replaces it.
    ssd = {"hostPath": {"path": "/ssd"}}
    assert _job(platform, settings=_pod(cache=ssd)).pod.cache == ssd


def test_what_cannot_be_said_is_refused() -> None:
    with raises_code(RecipeError, "VT-RECIPE-011"):
        _job(Platform())
    with raises_code(RecipeError, "VT-RECIPE-015"):
        TrainJobs().manifest(_job(Platform(image="i", pod=PodSettings(priority_class="high"))))


def test_the_cluster_decides_when_nobody_does() -> None:
    v1, v2 = PyTorchJobs.resource.api_version, TrainJobs.resource.api_version
    assert isinstance(choose("auto", {v1, v2}), TrainJobs)
    assert isinstance(choose("auto", {v1}), PyTorchJobs)
    assert isinstance(choose("pytorchjob", {v1, v2}), PyTorchJobs)
    with raises_code(UserError, "VT-USE-053", "trainer.kubeflow.org/v1alpha1", "kubeflow.org/v1"):
        choose("auto", {"apps/v1"})
    with raises_code(UserError, "VT-USE-053", "trainer.kubeflow.org"):
        choose("trainjob", {v1})


def _conditions(*entries: tuple[str, str, str]) -> dict[str, Any]:
    return {
        "conditions": [
            {"type": kind, "status": status, "reason": reason, "message": f"{reason} it is"}
            for kind, status, reason in entries
        ]
    }


@pytest.mark.parametrize(
    ("status", "phase"),
    [
        ({}, Phase.PENDING),
        (_conditions(("Created", "True", "PyTorchJobCreated")), Phase.PENDING),
        (
            _conditions(
                ("Created", "True", "PyTorchJobCreated"), ("Running", "True", "PyTorchJobRunning")
            ),
            Phase.RUNNING,
        ),
        # Resumed stays as a false Suspended, and changed conditions move to the end: the last one
        # says nothing.
        (
            _conditions(
                ("Running", "True", "PyTorchJobRunning"),
                ("Suspended", "False", "PyTorchJobResumed"),
            ),
            Phase.RUNNING,
        ),
        (
            _conditions(("Running", "False", "x"), ("Restarting", "True", "PyTorchJobRestarting")),
            Phase.RESTARTING,
        ),
        (
            _conditions(("Failed", "True", "PyTorchJobFailed"), ("Running", "False", "x")),
            Phase.FAILED,
        ),
        (
            _conditions(("Succeeded", "True", "PyTorchJobSucceeded"), ("Running", "False", "x")),
            Phase.SUCCEEDED,
        ),
    ],
)
def test_pytorchjob_states(status: dict[str, Any], phase: Phase) -> None:
    state = PyTorchJobs().state({"spec": {}, "status": status})
    assert state.phase == phase
    assert state.phase.over == (phase in (Phase.FAILED, Phase.SUCCEEDED))


@pytest.mark.parametrize(
    ("spec", "status", "phase"),
    [
        ({}, {}, Phase.PENDING),
        ({"suspend": True}, {}, Phase.SUSPENDED),
        ({}, _conditions(("Suspended", "False", "Resumed")), Phase.PENDING),
        (
            {},
            {
                **_conditions(("Suspended", "False", "Resumed")),
                "jobsStatus": [{"name": "node", "active": 1}],
            },
            Phase.RUNNING,
        ),
        ({}, {"jobsStatus": [{"name": "node", "ready": 0, "active": 0}]}, Phase.PENDING),
        ({}, _conditions(("Complete", "True", "AllJobsCompleted")), Phase.SUCCEEDED),
        (
            {},
            {
                **_conditions(("Failed", "True", "DeadlineExceeded")),
                "jobsStatus": [{"name": "node", "active": 1}],
            },
            Phase.FAILED,
        ),
    ],
)
def test_trainjob_states(spec: dict[str, Any], status: dict[str, Any], phase: Phase) -> None:
    state = TrainJobs().state({"spec": spec, "status": status})
    assert state.phase == phase
    if phase == Phase.FAILED:
        assert state.reason == "DeadlineExceeded"


def test_node_ranks() -> None:
    def pod(role: str, index: str) -> dict[str, Any]:
        prefix = "training.kubeflow.org"
        return {
            "metadata": {
                "labels": {f"{prefix}/replica-type": role, f"{prefix}/replica-index": index}
            }
        }

    assert [
        PyTorchJobs().node_rank(pod(*one))
        for one in (("master", "0"), ("worker", "0"), ("worker", "4"))
    ] == [0, 1, 5]
    index = {"metadata": {"annotations": {"batch.kubernetes.io/job-completion-index": "3"}}}
    assert TrainJobs().node_rank(index) == 3


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.resource.kind)
def test_a_node_that_does_not_answer_loses_its_pods_soon(backend: JobKind) -> None:
    pod = _pod_template(backend, backend.manifest(_job()))["spec"]
    waits = {entry["key"]: entry.get("tolerationSeconds") for entry in pod["tolerations"]}
    assert waits == {
        "gpu": None,
        "node.kubernetes.io/not-ready": 60,
        "node.kubernetes.io/unreachable": 60,
    }
    stated = {
        "key": "node.kubernetes.io/unreachable",
        "operator": "Exists",
        "tolerationSeconds": 900,
    }
    platform = Platform(image="i", pod=PodSettings(tolerations=(stated,), node_timeout=5))
    pod = _pod_template(backend, backend.manifest(_job(platform)))["spec"]
    assert [entry["tolerationSeconds"] for entry in pod["tolerations"]] == [900, 5], (
        "what is stated goes first"
    )


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.resource.kind)
def test_pods_that_a_queue_takes_away_are_no_restart(backend: JobKind) -> None:
    def job(suspended: bool) -> dict[str, Any]:
        return {"spec": {"suspend": suspended, "runPolicy": {"suspend": suspended}}}

    def pod(uid: str) -> dict[str, Any]:
        return {"metadata": {"uid": uid, "name": "node-0"}, "status": {"phase": "Running"}}

    view = JobView(backend, lambda failed: None)
    view.take("Job", "ADDED", job(False))
    view.take("Pod", "ADDED", pod("first"))
    view.take("Job", "MODIFIED", job(True))
    view.take("Pod", "DELETED", pod("first"))
    view.take("Job", "MODIFIED", job(False))
    view.take("Pod", "ADDED", pod("second"))
    assert view.restarts == 0
    view.take("Pod", "DELETED", pod("second"))
    view.take("Pod", "ADDED", pod("third"))
    assert view.restarts == 1, "which nobody asked for"
