"""The chart: what helm makes of its values, and what a real API server makes of that."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from chart import CHART, VALUES, assert_fits, assert_within, helm, job_of, objects_of, platform_of
from conftest import until
from control_plane import ControlPlane
from kubernetes import client

from vita_train.cli.main import build_app
from vita_train.launch.cluster.api import Cluster
from vita_train.launch.cluster.launcher import Launcher
from vita_train.launch.cluster.pytorchjob import PyTorchJobs
from vita_train.launch.cluster.trainjob import TrainJobs
from vita_train.recipe.platform import FOLDER, S3_SETTINGS, Platform
from vita_train.recipe.pod import PodSettings

#: Published definitions are not part of this project: a folder beside it, or the one that is named.
DEFINITIONS = Path(os.environ.get("VITA_TRAIN_CRDS") or Path(__file__).resolve().parents[3] / "shared" / "crds")
TRAINER = [DEFINITIONS / "trainer-v2.3.0" / f"trainer.kubeflow.org_{kind}.yaml"
           for kind in ("trainjobs", "trainingruntimes")]
#: Stands in for Kueue's own definition, which is not at hand: any content passes.
LOCAL_QUEUE = {
    "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
    "metadata": {"name": "localqueues.kueue.x-k8s.io"},
    "spec": {"group": "kueue.x-k8s.io", "scope": "Namespaced",
             "names": {"kind": "LocalQueue", "plural": "localqueues", "singular": "localqueue"},
             "versions": [{"name": "v1beta2", "served": True, "storage": True, "schema": {
                 "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}}]}}

_JOB_VERBS = {"create", "get", "list", "watch", "delete"}
#: What the launcher does: (group, resource) to verbs.
NEEDED: dict[tuple[str, str], set[str]] = {
    ("kubeflow.org", "pytorchjobs"): _JOB_VERBS, ("trainer.kubeflow.org", "trainjobs"): _JOB_VERBS,
    ("", "pods"): {"get", "list", "watch"}, ("", "pods/log"): {"get"}, ("", "events"): {"list"},
    ("argoproj.io", "workflows"): {"get"}}
DENIED = [
    ("get", "", "secrets"), ("list", "", "secrets"), ("create", "", "secrets"), ("create", "", "pods"),
    ("delete", "", "pods"), ("patch", "", "pods"), ("create", "", "pods/exec"), ("get", "", "pods/exec"),
    ("create", "", "pods/attach"), ("create", "", "pods/portforward"), ("create", "", "pods/eviction"),
    ("get", "", "configmaps"), ("update", "", "configmaps"), ("create", "", "serviceaccounts/token"),
    ("impersonate", "", "serviceaccounts"), ("create", "batch", "jobs"), ("create", "apps", "deployments"),
    ("update", "kubeflow.org", "pytorchjobs"), ("patch", "kubeflow.org", "pytorchjobs"),
    ("deletecollection", "kubeflow.org", "pytorchjobs"), ("patch", "trainer.kubeflow.org", "trainjobs"),
    ("update", "kubeflow.org", "pytorchjobs/status"), ("create", "kubeflow.org", "tfjobs"),
    ("patch", "trainer.kubeflow.org", "trainingruntimes"), ("list", "argoproj.io", "workflows"),
    ("patch", "argoproj.io", "workflows"), ("delete", "argoproj.io", "workflows"),
    ("create", "rbac.authorization.k8s.io", "roles"), ("escalate", "rbac.authorization.k8s.io", "roles"),
    ("create", "rbac.authorization.k8s.io", "rolebindings"), ("delete", "", "resourcequotas")]


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_every_set_of_values_makes_a_sound_chart(values: Path, tmp_path: Path) -> None:
    helm("lint", "--strict", CHART, "--values", values)
    objects = objects_of(helm("template", "one", CHART, "--namespace", "team", "--values", values).stdout)
    for made in objects.values():
        assert made["metadata"]["namespace"] == "team"
        labels = made["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "one"
        assert labels["app.kubernetes.io/part-of"] == "vita-train"
    # Each value that is set arrives; the chart only adds.
    given, platform = yaml.safe_load(values.read_text()), platform_of(objects, tmp_path)
    arrived = platform.model_dump(mode="json")
    assert platform.namespace == "team"
    assert platform.image == given["images"]["trainer"]
    assert_within(given.get("platform", {}), arrived)
    (config,) = (one for (kind, _), one in objects.items() if kind == "ConfigMap")
    s3 = given.get("s3", {})
    assert {name: config["data"].get(name, "") for name in S3_SETTINGS} == {
        "AWS_ENDPOINT_URL_S3": s3.get("endpoint", ""), "AWS_DEFAULT_REGION": s3.get("region", "")}
    runtime = next((one for (kind, _), one in objects.items() if kind == "TrainingRuntime"), None)
    assert (runtime is not None) == (given.get("trainJob", {}).get("enabled") is True)
    if runtime:
        assert_fits(TrainJobs().manifest(job_of(platform)), runtime)


def test_the_janitor_runs_a_command_that_there_is() -> None:
    values = CHART / "ci" / "everything-values.yaml"
    job = objects_of(helm("template", "one", CHART, "--values", values).stdout)["CronJob", "all-janitor"]
    assert (job["spec"]["schedule"], job["spec"]["suspend"]) == ("0 * * * *", True)
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "steps", "the launcher's rights are what it needs"
    [container] = pod["containers"]
    assert container["image"] == yaml.safe_load(values.read_text())["images"]["launcher"]
    assert container["volumeMounts"][0]["mountPath"] == str(FOLDER)
    program, verb, *options = container["command"]
    assert program == "vita-train"
    command = typer.main.get_command(build_app()).commands[verb]  # type: ignore[attr-defined]
    assert command.make_context(verb, options).params == {"is_rehearsal": False, "workflow": 60.0, "over": 3600.0}


def test_the_defaults_are_the_codes_own(tmp_path: Path) -> None:
    objects = objects_of(helm("template", "one", CHART, "--namespace", "team").stdout)
    assert {kind for kind, _ in objects} == {"ServiceAccount", "Role", "RoleBinding", "ConfigMap"}
    assert platform_of(objects, tmp_path) == Platform(namespace="team", pod=PodSettings(service_account="vita-trainer"))
    served = helm("template", "one", CHART, "--api-versions", "trainer.kubeflow.org/v1alpha1/TrainingRuntime").stdout
    assert ("TrainingRuntime", Platform().runtime) in objects_of(served)


def test_the_schema_says_what_the_code_takes() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    model = _bare(Platform.model_json_schema())
    definitions = {**model.pop("$defs"), "Platform": model}
    for filled_in in ("namespace", "image", "runtime"):
        del model["properties"][filled_in]
    assert {name: schema["$defs"][name] for name in definitions} == definitions
    _assert_strict(schema)


def _bare(node: Any, *, is_names: bool = False) -> Any:
    """A model's schema without what the chart states elsewhere."""
    if isinstance(node, list):
        return [_bare(one) for one in node]
    if not isinstance(node, dict):
        return node
    return {key: _bare(value, is_names=not is_names and key in ("properties", "$defs"))
            for key, value in node.items() if is_names or key not in ("title", "description", "default")}


def _assert_strict(node: Any) -> None:
    for one in node if isinstance(node, list) else node.values() if isinstance(node, dict) else ():
        _assert_strict(one)
    if isinstance(node, dict) and node.get("type") == "object":
        assert node["additionalProperties"] is False if "properties" in node else "additionalProperties" in node, node


@pytest.mark.parametrize(("setting", "words"), [
    ("platfrom.backend=auto", "'platfrom' not allowed"),
    ("platform.pod.memmory=1Gi", "'memmory' not allowed"),
    ("platform.pod.cpu=8", "/platform/pod/cpu': got number, want string"),
    ("platform.pod.run_as=0", "/platform/pod/run_as': minimum: got 0, want 1"),
    ("platform.backend=mpi", "/platform/backend': value must be one of 'auto'"),
    ("platform.namespace=other", "'namespace' not allowed"),
    ("trainJob.enabled=maybe", "/trainJob/enabled': value must be one of 'auto', true, false"),
    ("s3.accessKeyId=id", "accessKeyId and secretAccessKey go together"),
    ("kueue.clusterQueue=q", "platform.queue.name must name the LocalQueue"),
    ("serviceAccounts.trainer.create=false", "name the account to take"),
])
def test_wrong_values_are_refused_by_name(setting: str, words: str) -> None:
    done = helm("template", "one", CHART, "--set", setting, check=False)
    assert done.returncode != 0
    assert words in done.stderr.replace('"', "'"), done.stderr


@pytest.fixture(scope="module")
def apis(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trainer's published definitions and a stand-in for Kueue's; gone afterwards, as other tests go by what is served.
    """
    if not all(path.exists() for path in TRAINER):
        pytest.skip(f"no definitions of Trainer in {DEFINITIONS}; VITA_TRAIN_CRDS names another folder")
    queue = tmp_path_factory.mktemp("crds") / "queue.yaml"
    queue.write_text(yaml.safe_dump(LOCAL_QUEUE))
    for path in (*TRAINER, queue):
        control_plane.apply_crd(path)
    yield
    definitions = client.ApiextensionsV1Api(control_plane.api)
    for path in (*TRAINER, queue):
        definitions.delete_custom_resource_definition(yaml.safe_load(path.read_text())["metadata"]["name"])


def _contents(control_plane: ControlPlane, namespace: str) -> set[tuple[str, str]]:
    """Kind and name of all that the chart could have made, and of what helm itself keeps."""
    found = set()
    for root, plural in (("api/v1", "configmaps"), ("api/v1", "secrets"), ("api/v1", "serviceaccounts"),
                         ("api/v1", "resourcequotas"), ("apis/rbac.authorization.k8s.io/v1", "roles"),
                         ("apis/rbac.authorization.k8s.io/v1", "rolebindings"),
                         ("apis/networking.k8s.io/v1", "networkpolicies"),
                         ("apis/trainer.kubeflow.org/v1alpha1", "trainingruntimes"),
                         ("apis/kueue.x-k8s.io/v1beta2", "localqueues")):
        answer = control_plane.api.call_api(f"/{root}/namespaces/{namespace}/{plural}", "GET", response_type="object",
                                            auth_settings=["BearerToken"], _return_http_data_only=True)
        found |= {(plural, str(one["metadata"]["name"])) for one in answer["items"]}
    return found


@pytest.mark.usefixtures("apis")
def test_install_upgrade_uninstall(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
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
        "AWS_ACCESS_KEY_ID": "0123", "AWS_SECRET_ACCESS_KEY": 'p"a: s#s'}
    helm("uninstall", "one", *to)
    assert _contents(control_plane, namespace) == before


def _installed(control_plane: ControlPlane, namespace: str, folder: Path, *settings: str) -> Platform:
    """Install the chart for small jobs and return the settings it holds."""
    to = ("--namespace", namespace, "--kubeconfig", control_plane.kubeconfig)
    small = folder / "small.yaml"
    small.write_text(yaml.safe_dump({"images": {"trainer": "this-machine"}, "platform": {"pod": {
        "gpu_resource": "", "cpu": "100m", "memory": "1Gi", "shm": "64Mi", "scratch": "64Mi", "grace": 30}}}))
    helm("install", "one", CHART, *to, "--values", small, *settings)
    return platform_of(objects_of(helm("get", "manifest", "one", *to).stdout), folder)


def _may(control_plane: ControlPlane, account: tuple[str, str], verb: str, group: str, resource: str, *,
         namespace: str | None) -> bool:
    """Ask the API server whether a service account may do something."""
    home, name = account
    resource, _, part = resource.partition("/")
    answer = client.AuthorizationV1Api(control_plane.api).create_subject_access_review({"spec": {
        "user": f"system:serviceaccount:{home}:{name}",
        "groups": ["system:serviceaccounts", f"system:serviceaccounts:{home}", "system:authenticated"],
        "resourceAttributes": {"verb": verb, "group": group, "resource": resource, "subresource": part,
                               **({"namespace": namespace} if namespace else {})}}})
    return bool(answer.status.allowed)


def test_the_accounts_may_do_what_they_must_and_no_more(control_plane: ControlPlane, namespace: str,
                                                        tmp_path: Path) -> None:
    _installed(control_plane, namespace, tmp_path, "--set",
               "launcher.extraSubjects[0].kind=ServiceAccount,launcher.extraSubjects[0].name=pipeline-runner")
    role = client.RbacAuthorizationV1Api(control_plane.api).read_namespaced_role("vita-launcher", namespace)
    stated = {(rule.api_groups[0], rule.resources[0]): set(rule.verbs) for rule in role.rules}
    assert stated == NEEDED
    every = [(verb, group, resource) for (group, resource), verbs in NEEDED.items() for verb in verbs]
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
    token = client.CoreV1Api(control_plane.api).create_namespaced_service_account_token(
        "vita-launcher", namespace, {"spec": {}}).status.token
    control_plane.write_kubeconfig("launcher", token, namespace)
    return Cluster(client.ApiClient(control_plane.settings("launcher")), outage=20)


@pytest.mark.usefixtures("node")
def test_a_job_runs_as_the_launchers_account(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    platform = _installed(control_plane, namespace, tmp_path)
    cluster, lines = _as_launcher(control_plane, namespace), list[str]()
    assert PyTorchJobs.resource.api_version in cluster.served()
    job = job_of(platform, "print('trained')")
    launcher = Launcher(cluster, PyTorchJobs(), job, None, restarts=0, out=lines.append)
    launcher.run()
    launcher.delete(wait=True)
    assert "trained" in lines


@pytest.mark.usefixtures("node")
def test_a_launcher_that_may_not_read_logs_says_so_once(control_plane: ControlPlane, namespace: str, tmp_path: Path
                                                        ) -> None:
    platform = _installed(control_plane, namespace, tmp_path)
    roles = client.RbacAuthorizationV1Api(control_plane.api)
    role = roles.read_namespaced_role("vita-launcher", namespace)
    role.rules = [rule for rule in role.rules if "pods/log" not in rule.resources]
    roles.replace_namespaced_role("vita-launcher", namespace, role)
    lines: list[str] = []
    launcher = Launcher(_as_launcher(control_plane, namespace), PyTorchJobs(),
                        job_of(platform, "import time; time.sleep(5)"), None, restarts=0, out=lines.append)
    launcher.run()
    launcher.delete(wait=True)
    assert sum("pods/log" in line for line in lines) == 1, lines


@pytest.mark.usefixtures("apis")
def test_pods_fit_the_restricted_level_and_trainjobs_the_runtime(control_plane: ControlPlane, namespace: str,
                                                                 tmp_path: Path) -> None:
    platform = _installed(control_plane, namespace, tmp_path)
    core = client.CoreV1Api(control_plane.api)
    core.patch_namespace(namespace, {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}})
    runtime = client.CustomObjectsApi(control_plane.api).get_namespaced_custom_object(
        "trainer.kubeflow.org", "v1alpha1", namespace, "trainingruntimes", platform.runtime)
    rendered = objects_of(helm("get", "manifest", "one", "--namespace", namespace, "--kubeconfig",
                               control_plane.kubeconfig).stdout)
    assert_within(rendered["TrainingRuntime", platform.runtime]["spec"], runtime["spec"])  # nothing was pruned
    (stated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    master = PyTorchJobs().manifest(job_of(platform))["spec"]["pytorchReplicaSpecs"]["Master"]["template"]
    for pod in (stated["template"]["spec"]["template"], master):
        core.create_namespaced_pod(namespace, {"metadata": {"name": "probe"}, "spec": pod["spec"]}, dry_run="All")
    cluster, job = _as_launcher(control_plane, namespace), TrainJobs().manifest(job_of(platform))
    assert_fits(job, runtime)
    made = cluster.create(TrainJobs.resource, job)
    cluster.delete(TrainJobs.resource, namespace, job["metadata"]["name"], made["metadata"]["uid"])
