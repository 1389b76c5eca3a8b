"""The images as containers of a real node: kubelet, containerd, runc; Pod Security's restricted
level is enforced.

`make test-node` builds what this needs and runs it in namespaces of its own. Real are the pods of
the chart and of the
jobs, their network, names, users and file systems. Kubeflow Pipelines is not there: a step is a pod
of the chart's own
security context that runs what the compiled pipeline says, and a server of ours takes the uploads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from kubernetes import client

from tests.helpers.cluster.chart import (
    CHART,
    helm,
    janitor_of,
    janitor_removes,
    objects_of,
    platform_of,
)
from tests.helpers.cluster.control_plane import ControlPlane, minimal_definition
from tests.helpers.cluster.real_node import API, HERE, RealNode, missing, take_addresses
from tests.helpers.cluster.waiting import jobs_of, until
from tests.helpers.images.engine import image_of
from tests.helpers.kfp_server import FakeKfp, fake_kfp
from tests.helpers.pipeline_step import SMALL_WORLD, command_of, container_of
from tests.helpers.s3_server import ACCESS_KEY, SECRET_KEY, S3Server, serve_s3
from vita_train import __version__
from vita_train.launch.kubernetes.api import Cluster
from vita_train.launch.kubernetes.workflow import WORKFLOWS
from vita_train.recipe.load import load_recipe
from vita_train.runs.final import read_final
from vita_train.storage.factory import open_store

pytestmark = [pytest.mark.node, pytest.mark.slow, pytest.mark.timeout(900)]
IMAGES = {kind: image_of(kind) for kind in ("launcher", "data", "trainer")}
STORE = "s3://node/runs"
LADDER = "vita-train-ladder"
DOCS = Path(__file__).parents[2] / "docs" / "cluster.md"


@dataclass(frozen=True)
class Site:
    """A namespace with the chart."""

    plane: ControlPlane
    namespace: str
    kfp: FakeKfp
    s3: S3Server

    def run(self, name: str, kind: str, command: list[str], *, memory: str = "512Mi") -> str:
        """Run a command in one of the images, in a pod like the chart's own, and return its log."""
        pod = janitor_of(self.plane, self.namespace)["template"]["spec"]
        [container] = pod["containers"]
        container.update(
            name="main",
            image=IMAGES[kind],
            command=command,
            resources={"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": memory}},
        )
        container["env"] += [
            {"name": "VITA_TRAIN_POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
        ]
        core = client.CoreV1Api(self.plane.api)
        core.create_namespaced_pod(self.namespace, {"metadata": {"name": name}, "spec": pod})

        def phase() -> str:
            return str(core.read_namespaced_pod_status(name, self.namespace).status.phase)

        until(lambda: phase() in ("Succeeded", "Failed"), seconds=400)
        # As it is: the client would read a log that looks like JSON, and print that as Python does.
        said = core.read_namespaced_pod_log(
            name, self.namespace, _preload_content=False
        ).data.decode()
        assert phase() == "Succeeded", said
        return said

    def uploaded(self, pipeline: str) -> dict[str, Any]:
        """Wait until the chart's Job has uploaded a pipeline, and return the definition of its
        newest version."""
        until(lambda: pipeline in self.kfp.versions, seconds=120)
        return dict(next(yaml.safe_load_all(list(self.kfp.versions[pipeline].values())[-1])))

    def step(self, component: str, kind: str, **parameters: Any) -> str:
        """Run a step of the pipeline that the chart has uploaded."""
        pipeline = self.uploaded(LADDER)
        assert container_of(pipeline, component)["image"] == IMAGES[kind]
        command = command_of(pipeline, component, "/tmp/outputs", storage_root=STORE, **parameters)
        return self.run(f"step-{component}", kind, command, memory="3Gi")


def _init_container() -> str:
    """The template that the docs give cluster owners for the restricted level, with an image that
    is here."""
    [block] = re.findall(r"```yaml\n(- name: init-pytorch\n.*?)```", DOCS.read_text(), re.DOTALL)
    return re.sub(r"image: .*", f"image: {IMAGES['launcher']}", block)


@pytest.fixture(scope="module")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane whose pods run on a real node."""
    if why := missing():
        pytest.skip(why)
    take_addresses()
    plane = ControlPlane(
        tmp_path_factory.mktemp("control-plane"), address=API, init_container=_init_container()
    )
    node = None
    try:
        node = RealNode(plane, list(IMAGES.values()))
        yield plane
    finally:
        if node:
            node.stop()
        plane.stop()


@pytest.fixture(scope="module")
def s3(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server that pods reach."""
    with serve_s3(tmp_path_factory.mktemp("s3"), HERE) as server:
        boto3.client(
            "s3",
            endpoint_url=server.endpoint,
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
        ).create_bucket(Bucket="node")
        yield server


@pytest.fixture(scope="module")
def site(
    control_plane: ControlPlane, s3: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """The chart, installed by helm into a namespace that admits restricted pods only."""
    namespace = control_plane.namespace("team")
    client.CoreV1Api(control_plane.api).patch_namespace(
        namespace, {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    )
    values = tmp_path_factory.mktemp("values") / "values.yaml"
    with fake_kfp(HERE) as kfp:
        values.write_text(
            yaml.safe_dump(
                {
                    "images": IMAGES | {"allowTags": True},
                    "pipelines": {"endpoint": kfp.endpoint},
                    "s3": {
                        "endpoint": s3.endpoint,
                        "accessKeyId": ACCESS_KEY,
                        "secretAccessKey": SECRET_KEY,
                        "stores": [STORE],
                    },
                    "platform": {
                        "backend": "pytorchjob",
                        "image_pull_policy": "Never",
                        "pod": {
                            "gpu_resource": "",
                            "cpu": "500m",
                            "memory": "3Gi",
                            "shm": "64Mi",
                            "scratch": "1Gi",
                            "grace": 30,
                        },
                    },
                }
            )
        )
        helm(
            "install",
            "one",
            CHART,
            "--namespace",
            namespace,
            "--kubeconfig",
            control_plane.kubeconfig,
            "--values",
            values,
        )
        yield Site(control_plane, namespace, kfp, s3)


def test_the_charts_job_compiles_the_pipelines_and_uploads_them(site: Site) -> None:
    batch = client.BatchV1Api(site.plane.api)
    until(
        lambda: batch.read_namespaced_job("vita-upload-1", site.namespace).status.completion_time,
        seconds=120,
    )
    stages = {
        f"vita-train-stage-{stage.replace('.', '-')}" for stage in load_recipe("smoke", []).stages
    }
    assert set(site.kfp.versions) == {LADDER, *stages}
    for name in site.kfp.versions:
        executors = site.uploaded(name)["deploymentSpec"]["executors"].values()
        images = {one["container"]["image"] for one in executors}
        assert images == ({IMAGES["launcher"]} if name in stages else set(IMAGES.values())), name


@pytest.mark.parametrize("kind", ["launcher", "data", "trainer"])
def test_a_container_is_held_by_the_charts_security_context(site: Site, kind: str) -> None:
    code = (
        "import json, pathlib\n"
        "state = dict(line.split(':\\t', 1) for line in "
        "open('/proc/self/status').read().splitlines())\n"
        "def may(place):\n"
        "    try: pathlib.Path(place, 'written').touch()\n"
        "    except OSError: return False\n"
        "    return True\n"
        "places = ['/', '/etc', '/opt/venv', '/var/tmp', '/usr/local', '/dev/shm', '/tmp']\n"
        "print(json.dumps({'state': state, 'writable': [one for one in places if may(one)]}))\n"
    )
    found = json.loads(site.run(f"held-{kind}", kind, ["python", "-c", code]))
    assert set(found["state"]["Uid"].split()) == {"65532"}
    assert int(found["state"]["CapEff"], 16) == 0
    assert found["state"]["NoNewPrivs"] == "1"
    assert found["state"]["Seccomp"] == "2", "filtered"
    assert found["writable"] == ["/dev/shm", "/tmp"]


@pytest.mark.parametrize("kind", ["launcher", "data", "trainer"])
def test_an_image_is_whole_on_a_node(site: Site, kind: str) -> None:
    said = site.run(
        f"whole-{kind}",
        kind,
        ["python", "-m", "vita_train.preflight.selfcheck", kind],
        memory="3Gi",
    )
    assert said.splitlines()[-1] == f"{kind} {__version__}: ok", said


def test_helm_test_runs_a_job_to_its_end(site: Site) -> None:
    printed = helm(
        "test",
        "one",
        "--namespace",
        site.namespace,
        "--kubeconfig",
        site.plane.kubeconfig,
        "--timeout",
        "110s",
        "--logs",
    ).stdout
    for name in ("image", "kind of job", "RBAC", "job accepted", f"store {STORE}", "job run"):
        assert f"✓ {name}: " in printed, printed
    assert jobs_of(site.plane, site.namespace) == []


def test_the_janitor_removes_the_job_of_a_workflow_that_is_over(site: Site, tmp_path: Path) -> None:
    with site.plane.serving(minimal_definition(WORKFLOWS.group, WORKFLOWS.version, WORKFLOWS.kind)):
        manifests = helm(
            "get",
            "manifest",
            "one",
            "--namespace",
            site.namespace,
            "--kubeconfig",
            site.plane.kubeconfig,
        ).stdout
        janitor_removes(
            site.plane,
            site.namespace,
            platform_of(objects_of(manifests), tmp_path),
            Cluster(site.plane.api, outage=20),
        )


@pytest.mark.usefixtures("s3_credentials")
def test_steps_make_the_data_and_two_pods_train_on_it(site: Site) -> None:
    site.step("data-fetch", "data")
    site.step("data-validation", "data")
    store = open_store(STORE, endpoint=site.s3.endpoint)
    prepared = read_final(store, "first/prepare")
    assert prepared is not None
    assert prepared.metrics["used"] == prepared.metrics["records"] > 0
    said = site.step(
        "train-0-llm",
        "launcher",
        overrides=[
            *SMALL_WORLD,
            "launch.nodes=2",
            "stages.0.llm.engine.kind=deepspeed",
            "stages.0.llm.engine.zero=2",
        ],
    )
    trained = read_final(store, "first/0.llm")
    assert trained is not None, said
    assert trained.lineage["world"] == 2
    assert trained.lineage["engine"]["kind"] == "deepspeed"
    until(lambda: jobs_of(site.plane, site.namespace) == [])
