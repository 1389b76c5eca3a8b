"""The chart in a real API server: installed, upgraded, its rights, and jobs that run on them."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import boto3
import pytest
import yaml
from kubernetes import client

from tests.helpers.cluster.chart import (
    CHART,
    VALUES,
    assert_fits,
    assert_within,
    helm,
    janitor_removes,
    job_of,
    objects_of,
    platform_of,
)
from tests.helpers.cluster.control_plane import ControlPlane, minimal_definition
from tests.helpers.cluster.waiting import jobs_of, until
from tests.helpers.definitions import trainer_definition
from tests.helpers.s3_server import ACCESS_KEY, SECRET_KEY, S3Server
from vita_train.launch.kubernetes.api import Cluster
from vita_train.launch.kubernetes.launcher import Launcher
from vita_train.launch.kubernetes.pytorchjob import PyTorchJobs
from vita_train.launch.kubernetes.rbac import JOB_VERBS, NEEDED
from vita_train.launch.kubernetes.trainjob import TrainJobs
from vita_train.recipe.platform import Platform

#: Operators whose own definitions are not at hand.
OTHERS = [
    minimal_definition("kueue.x-k8s.io", "v1beta2", "LocalQueue"),
    minimal_definition("monitoring.coreos.com", "v1", "PodMonitor"),
    minimal_definition("monitoring.coreos.com", "v1", "PrometheusRule"),
]

#: (group, resource) to verbs.
ALLOWED = {
    ("kubeflow.org", "pytorchjobs"): JOB_VERBS,
    ("trainer.kubeflow.org", "trainjobs"): JOB_VERBS,
    **NEEDED,
}
DENIED = [
    ("get", "", "secrets"),
    ("list", "", "secrets"),
    ("create", "", "secrets"),
    ("create", "", "pods"),
    ("delete", "", "pods"),
    ("patch", "", "pods"),
    ("create", "", "pods/exec"),
    ("get", "", "pods/exec"),
    ("create", "", "pods/attach"),
    ("create", "", "pods/portforward"),
    ("create", "", "pods/eviction"),
    ("get", "", "configmaps"),
    ("update", "", "configmaps"),
    ("create", "", "serviceaccounts/token"),
    ("impersonate", "", "serviceaccounts"),
    ("create", "batch", "cronjobs"),
    ("create", "apps", "deployments"),
    ("update", "kubeflow.org", "pytorchjobs"),
    ("patch", "kubeflow.org", "pytorchjobs"),
    ("deletecollection", "kubeflow.org", "pytorchjobs"),
    ("patch", "trainer.kubeflow.org", "trainjobs"),
    ("update", "kubeflow.org", "pytorchjobs/status"),
    ("create", "kubeflow.org", "tfjobs"),
    ("patch", "trainer.kubeflow.org", "trainingruntimes"),
    ("create", "argoproj.io", "workflows"),
    ("patch", "argoproj.io", "workflows"),
    ("delete", "argoproj.io", "workflows"),
    ("create", "rbac.authorization.k8s.io", "roles"),
    ("escalate", "rbac.authorization.k8s.io", "roles"),
    ("create", "rbac.authorization.k8s.io", "rolebindings"),
    ("delete", "", "resourcequotas"),
]


@pytest.fixture(scope="module")
def apis(control_plane: ControlPlane) -> Iterator[None]:
    """Trainer's published definitions and stand-ins for others'."""
    with control_plane.serving(
        trainer_definition("trainjobs"), trainer_definition("trainingruntimes"), *OTHERS
    ):
        yield


def _contents(control_plane: ControlPlane, namespace: str) -> set[tuple[str, str]]:
    """Kind and name of all that the chart could have made, and of what helm itself keeps."""
    found = set()
    for root, plural in (
        ("api/v1", "configmaps"),
        ("api/v1", "secrets"),
        ("api/v1", "serviceaccounts"),
        ("api/v1", "resourcequotas"),
        ("apis/rbac.authorization.k8s.io/v1", "roles"),
        ("apis/rbac.authorization.k8s.io/v1", "rolebindings"),
        ("apis/networking.k8s.io/v1", "networkpolicies"),
        ("apis/trainer.kubeflow.org/v1alpha1", "trainingruntimes"),
        ("apis/batch/v1", "cronjobs"),
        ("apis/batch/v1", "jobs"),
        ("apis/kueue.x-k8s.io/v1beta2", "localqueues"),
        ("apis/monitoring.coreos.com/v1", "podmonitors"),
        ("apis/monitoring.coreos.com/v1", "prometheusrules"),
    ):
        answer = control_plane.api.call_api(
            f"/{root}/namespaces/{namespace}/{plural}",
            "GET",
            response_type="object",
            auth_settings=["BearerToken"],
            _return_http_data_only=True,
        )
        found |= {(plural, str(one["metadata"]["name"])) for one in answer["items"]}
    return found


@pytest.mark.usefixtures("apis")
def test_install_upgrade_uninstall(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    to = ("--namespace", namespace, "--kubeconfig", control_plane.kubeconfig)
    until(lambda: ("configmaps", "kube-root-ca.crt") in _contents(control_plane, namespace))
    before = _contents(control_plane, namespace)
    notes = helm("install", "one", CHART, *to).stdout
    assert "images.trainer is empty" in notes
    assert "no Argo Workflows" in notes
    assert "neither TrainJob" not in notes
    assert ("trainingruntimes", "vita-torchrun") in _contents(control_plane, namespace)
    for values in VALUES:
        notes = helm("upgrade", "one", CHART, *to, "--values", values).stdout
        assert "images.trainer" not in notes
        objects = objects_of(helm("get", "manifest", "one", *to).stdout)
        made = _contents(control_plane, namespace) - before
        assert len({one for one in made if "sh.helm.release" not in one[1]}) == len(objects)
        assert platform_of(objects, tmp_path).namespace == namespace
    helm("upgrade", "one", CHART, *to, "--values", CHART / "ci" / "s3-secret-values.yaml")
    secret = client.CoreV1Api(control_plane.api).read_namespaced_secret("vita-s3", namespace)
    assert {key: base64.b64decode(value).decode() for key, value in secret.data.items()} == {
        "AWS_ACCESS_KEY_ID": "0123",
        "AWS_SECRET_ACCESS_KEY": 'p"a: s#s',
    }
    helm("uninstall", "one", *to)
    assert _contents(control_plane, namespace) == before


def _installed(
    control_plane: ControlPlane, namespace: str, folder: Path, *settings: str
) -> Platform:
    """Install the chart for small jobs and return the settings it holds."""
    to = ("--namespace", namespace, "--kubeconfig", control_plane.kubeconfig)
    small = folder / "small.yaml"
    small.write_text(
        yaml.safe_dump(
            {
                "images": {"trainer": "this-machine", "allowTags": True},
                "platform": {
                    "pod": {
                        "gpu_resource": "",
                        "cpu": "100m",
                        "memory": "1Gi",
                        "shm": "64Mi",
                        "scratch": "64Mi",
                        "grace": 30,
                    }
                },
            }
        )
    )
    helm("install", "one", CHART, *to, "--values", small, *settings)
    return platform_of(objects_of(helm("get", "manifest", "one", *to).stdout), folder)


def _may(
    control_plane: ControlPlane,
    account: tuple[str, str],
    verb: str,
    group: str,
    resource: str,
    *,
    namespace: str | None,
) -> bool:
    """Ask the API server whether a service account may do something."""
    home, name = account
    resource, _, part = resource.partition("/")
    answer = client.AuthorizationV1Api(control_plane.api).create_subject_access_review(
        {
            "spec": {
                "user": f"system:serviceaccount:{home}:{name}",
                "groups": [
                    "system:serviceaccounts",
                    f"system:serviceaccounts:{home}",
                    "system:authenticated",
                ],
                "resourceAttributes": {
                    "verb": verb,
                    "group": group,
                    "resource": resource,
                    "subresource": part,
                    **({"namespace": namespace} if namespace else {}),
                },
            }
        }
    )
    return bool(answer.status.allowed)


def test_the_accounts_may_do_what_they_must_and_no_more(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    _installed(
        control_plane,
        namespace,
        tmp_path,
        "--set",
        "launcher.extraSubjects[0].kind=ServiceAccount,"
        "launcher.extraSubjects[0].name=pipeline-runner",
    )
    role = client.RbacAuthorizationV1Api(control_plane.api).read_namespaced_role(
        "vita-launcher", namespace
    )
    stated = {(rule.api_groups[0], rule.resources[0]): set(rule.verbs) for rule in role.rules}
    assert stated == ALLOWED
    every = [
        (verb, group, resource) for (group, resource), verbs in ALLOWED.items() for verb in verbs
    ]
    trainer = (namespace, "vita-trainer")
    for name in ("vita-launcher", "pipeline-runner"):
        account = (namespace, name)
        until(partial(_may, control_plane, account, *every[0], namespace=namespace), seconds=10)
        for call in every:
            assert _may(control_plane, account, *call, namespace=namespace), call
            assert not _may(control_plane, account, *call, namespace="default"), call
            assert not _may(control_plane, trainer, *call, namespace=namespace), call
        for call in DENIED:
            assert not _may(control_plane, account, *call, namespace=namespace), call
        for resource in ("nodes", "namespaces", "persistentvolumes"):
            assert not _may(control_plane, account, "list", "", resource, namespace=None)


def _as_launcher(control_plane: ControlPlane, namespace: str) -> Cluster:
    """The API, as the chart's service account sees it."""
    control_plane.kubeconfig_of(namespace, "vita-launcher")
    return Cluster(
        client.ApiClient(control_plane.settings(f"{namespace}-vita-launcher")), outage=20
    )


@pytest.mark.usefixtures("node")
def test_a_job_runs_as_the_launchers_account(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    platform = _installed(control_plane, namespace, tmp_path)
    cluster, lines = _as_launcher(control_plane, namespace), list[str]()
    assert PyTorchJobs.resource.api_version in cluster.served()
    job = job_of(platform, "print('trained')")
    launcher = Launcher(cluster, PyTorchJobs(), job, None, restarts=0, out=lines.append)
    launcher.run()
    launcher.delete(wait=True)
    assert "trained" in lines


def _without_logs(control_plane: ControlPlane, namespace: str) -> None:
    """Take the right to read logs from the launcher."""
    roles = client.RbacAuthorizationV1Api(control_plane.api)
    role = roles.read_namespaced_role("vita-launcher", namespace)
    role.rules = [rule for rule in role.rules if "pods/log" not in rule.resources]
    roles.replace_namespaced_role("vita-launcher", namespace, role)


@pytest.mark.usefixtures("node")
def test_helm_test_tries_what_jobs_need(
    control_plane: ControlPlane,
    namespace: str,
    s3_server: S3Server,
    s3_credentials: None,
    tmp_path: Path,
) -> None:
    boto3.client("s3", endpoint_url=s3_server.endpoint, region_name="us-east-1").create_bucket(
        Bucket=namespace
    )
    _installed(
        control_plane,
        namespace,
        tmp_path,
        "--set",
        "platform.backend=pytorchjob,images.allowTags=true,images.launcher=this-machine,"
        f"s3.stores={{s3://{namespace}/runs}},"
        f"s3.endpoint={s3_server.endpoint},"
        f"s3.accessKeyId={ACCESS_KEY},s3.secretAccessKey={SECRET_KEY}",
    )
    test = (
        "test",
        "one",
        "--namespace",
        namespace,
        "--kubeconfig",
        control_plane.kubeconfig,
        "--timeout",
        "100s",
        "--logs",
    )
    printed = helm(*test).stdout
    for name in (
        "image",
        "kind of job",
        "RBAC",
        "job accepted",
        f"store s3://{namespace}/runs",
        "job run",
    ):
        assert f"✓ {name}: " in printed, printed
    assert "trainer 0" in printed, "what the small job said"
    assert jobs_of(control_plane, namespace) == []
    _without_logs(control_plane, namespace)
    failed = helm(*test, check=False)
    assert failed.returncode != 0
    assert "this account may not get pods/log" in failed.stdout, failed.stdout
    assert "✗ job run: " in failed.stdout, "it ended well, but nobody could read what it said"


@pytest.mark.usefixtures("node", "workflows")
def test_the_janitors_cron_job_removes_what_nobody_waits_for(
    control_plane: ControlPlane,
    namespace: str,
    s3_server: S3Server,
    s3_credentials: None,
    tmp_path: Path,
) -> None:
    if s3_server.data is None:
        pytest.skip("the time an upload began can be set back only where the server keeps files")
    s3 = boto3.client("s3", endpoint_url=s3_server.endpoint, region_name="us-east-1")
    s3.create_bucket(Bucket=namespace)
    begun = {
        key: s3.create_multipart_upload(Bucket=namespace, Key=f"runs/{key}")["UploadId"]
        for key in ("old", "new")
    }
    (folder,) = (s3_server.data / namespace).rglob(begun["old"])
    os.utime(folder, (0, 0))
    platform = _installed(
        control_plane,
        namespace,
        tmp_path,
        "--set",
        f"images.allowTags=true,images.launcher=this-machine,s3.stores={{s3://{namespace}/runs}},"
        f"s3.endpoint={s3_server.endpoint},s3.accessKeyId={ACCESS_KEY},"
        f"s3.secretAccessKey={SECRET_KEY}",
    )
    said = janitor_removes(
        control_plane, namespace, platform, _as_launcher(control_plane, namespace)
    )
    assert [upload["Key"] for upload in s3.list_multipart_uploads(Bucket=namespace)["Uploads"]] == [
        "runs/new"
    ]
    assert f"s3://{namespace}/runs/old: an upload that was never finished; deleted" in said
    assert f"s3://{namespace}/runs: 1 unfinished uploads deleted" in said


@pytest.mark.usefixtures("node")
def test_a_launcher_that_may_not_read_logs_says_so_once(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    platform = _installed(control_plane, namespace, tmp_path)
    _without_logs(control_plane, namespace)
    lines: list[str] = []
    launcher = Launcher(
        _as_launcher(control_plane, namespace),
        PyTorchJobs(),
        job_of(platform, "import time; time.sleep(5)"),
        None,
        restarts=0,
        out=lines.append,
    )
    launcher.run()
    launcher.delete(wait=True)
    assert sum("pods/log" in line for line in lines) == 1, lines


@pytest.mark.usefixtures("apis")
def test_pods_fit_the_restricted_level_and_trainjobs_the_runtime(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    platform = _installed(control_plane, namespace, tmp_path)
    core = client.CoreV1Api(control_plane.api)
    core.patch_namespace(
        namespace, {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    )
    runtime = client.CustomObjectsApi(control_plane.api).get_namespaced_custom_object(
        "trainer.kubeflow.org", "v1alpha1", namespace, "trainingruntimes", platform.runtime
    )
    rendered = objects_of(
        helm(
            "get",
            "manifest",
            "one",
            "--namespace",
            namespace,
            "--kubeconfig",
            control_plane.kubeconfig,
        ).stdout
    )
    assert_within(
        rendered["TrainingRuntime", platform.runtime]["spec"], runtime["spec"]
    )  # nothing was pruned
    (stated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    master = PyTorchJobs().manifest(job_of(platform))["spec"]["pytorchReplicaSpecs"]["Master"][
        "template"
    ]
    for pod in (stated["template"]["spec"]["template"], master):
        core.create_namespaced_pod(
            namespace, {"metadata": {"name": "probe"}, "spec": pod["spec"]}, dry_run="All"
        )
    cluster, job = _as_launcher(control_plane, namespace), TrainJobs().manifest(job_of(platform))
    assert_fits(job, runtime)
    made = cluster.create(TrainJobs.resource, job)
    cluster.delete(TrainJobs.resource, namespace, job["metadata"]["name"], made["metadata"]["uid"])
