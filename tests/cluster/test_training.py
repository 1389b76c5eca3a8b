"""Stages train on the cluster: pods of a job, DeepSpeed over gloo, checkpoints in a real S3
server."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from kubernetes import client

from tests.helpers.cluster.control_plane import ControlPlane
from tests.helpers.cluster.kubelet import Kubelet
from tests.helpers.cluster.waiting import jobs_of, until
from tests.helpers.own_data import own_recipe, upload_world
from tests.helpers.pipeline_step import SMALL_WORLD
from tests.helpers.s3_server import ACCESS_KEY, SECRET_KEY, S3Server
from vita_train.errors import PeerLostError
from vita_train.recipe.load import load_recipe
from vita_train.runs.final import read_final
from vita_train.runs.manifest import Manifest
from vita_train.storage.base import Store
from vita_train.storage.factory import open_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SMALL = tuple(word for setting in SMALL_WORLD for word in ("--set", setting))
SHARDED = (
    "--set",
    "launch.nodes=2",
    "--set",
    "stages.0.llm.engine.kind=deepspeed",
    "--set",
    "stages.0.llm.engine.zero=2",
)
BESIDE = ("--set", "launch.settings.kubernetes.steps={prepare: {pods: 2}}")
LONGER = ("--set", "stages.0.llm.steps=40", "--set", "stages.0.llm.checkpoint_interval=5")


class Bench:
    """Runs ``vita-train run`` as a step of a pipeline does: with the platform's settings and an
    account of the API.

    Args:
        folder: for settings and caches.
        env: credentials of S3.
        endpoint: of S3.
        kubeconfig: account of the launcher.
        namespace: of the jobs.
    """

    def __init__(
        self, folder: Path, env: dict[str, str], endpoint: str, kubeconfig: Path, namespace: str
    ) -> None:
        self.endpoint, self.namespace = endpoint, namespace
        self.root = f"s3://cluster/{namespace}"  # no test finds what another has trained
        self._platform = {
            "backend": "pytorchjob",
            "namespace": namespace,
            "image": "this-machine",
            "pod": {
                "gpu_resource": "",
                "cpu": "1",
                "memory": "4Gi",
                "shm": "64Mi",
                "grace": 30,
                "node_timeout": 5,
                "secret_env": {name: {"secret": "s3", "key": name} for name in env},
            },
        }
        self._file, self.cache = folder / "platform.yaml", folder / "cache"
        self.set()
        self.env = {
            **os.environ,
            **env,
            "KUBECONFIG": str(kubeconfig),
            "VITA_TRAIN_CACHE": str(self.cache),
            "VITA_TRAIN_PLATFORM": str(self._file),
        }
        self.store: Store = open_store(self.root, endpoint=endpoint)

    def set(self, **settings: str) -> None:
        """Change settings of the platform."""
        self._file.write_text(yaml.safe_dump({**self._platform, **settings}))

    def start(
        self, run: str, *arguments: str, recipe: str = "smoke", small: tuple[str, ...] = SMALL
    ) -> subprocess.Popen[str]:
        """Start steps of a recipe; the caller waits."""
        command = [
            sys.executable,
            "-m",
            "vita_train.cli.main",
            "run",
            recipe,
            "--run",
            run,
            "--set",
            f"storage.root={self.root}",
            "--set",
            f"storage.endpoint={self.endpoint}",
            *small,
            *arguments,
        ]
        return subprocess.Popen(
            command, env=self.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def run(self, run: str, *arguments: str, **recipe: Any) -> str:
        """Do steps of a recipe and return what was printed."""
        process = self.start(run, *arguments, **recipe)
        printed = process.communicate()[0]
        assert process.returncode == 0, printed
        return printed

    def final(self, run: str, stage: str) -> Manifest | None:
        """Return what a stage committed."""
        return read_final(self.store, f"{run}/{stage}")


@pytest.fixture
def bench(
    control_plane: ControlPlane,
    node: Kubelet,
    namespace: str,
    s3_server: S3Server,
    s3_credentials: None,
    tmp_path: Path,
) -> Bench:
    """A namespace with the Secret that pods read S3's credentials from."""
    names = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    client.CoreV1Api(control_plane.api).create_namespaced_secret(
        namespace, {"metadata": {"name": "s3"}, "stringData": names}
    )
    store = boto3.client("s3", endpoint_url=s3_server.endpoint, region_name="us-east-1")
    if "cluster" not in [bucket["Name"] for bucket in store.list_buckets()["Buckets"]]:
        store.create_bucket(Bucket="cluster")
    return Bench(tmp_path, names, s3_server.endpoint, control_plane.kubeconfig, namespace)


def _when(is_so: Callable[[], bool], act: Callable[[], None]) -> Future[None]:
    def wait() -> None:
        until(is_so, seconds=240)
        act()

    return ThreadPoolExecutor(1).submit(wait)


def _samples(manifest: Manifest | None) -> dict[str, Any]:
    assert manifest is not None
    return dict(manifest.lineage["samples"])


def test_two_pods_train_a_stage_and_its_commit_is_read_back(
    bench: Bench, control_plane: ControlPlane
) -> None:
    # The data are prepared by pods beside each other; the step itself joins what they made.
    bench.run("whole", "--until", "prepare", *BESIDE)
    log = (bench.cache / "runs" / "whole" / "logs" / "pipeline.log").read_text()
    assert "created in" in log, log
    assert re.search(r"[1-9][0-9]* shards were done already, 0 were not", log), log
    bench.run("whole", "--only", "0.llm", *SHARDED)
    manifest = bench.final("whole", "0.llm")
    assert manifest is not None
    assert manifest.lineage["world"] == 2
    assert manifest.lineage["engine"]["kind"] == "deepspeed"
    until(lambda: jobs_of(control_plane, bench.namespace) == [])
    # The same stage on this machine alone sees the same samples.
    bench.env.pop("VITA_TRAIN_PLATFORM")
    bench.run("alone", "--until", "0.llm")
    assert _samples(bench.final("alone", "0.llm")) == _samples(manifest)


@pytest.mark.timeout(1800)
def test_the_whole_smoke_pipeline_trains_its_stages_on_the_cluster(
    bench: Bench, control_plane: ControlPlane
) -> None:
    printed = bench.run("ladder", "--set", "launch.nodes=2")
    for stage in load_recipe("smoke", []).stages:
        manifest = bench.final("ladder", stage)
        assert manifest is not None, printed
        assert manifest.lineage["world"] == 2, stage
    assert all(
        bench.final("ladder", step) is not None for step in ("evaluate", "export", "report")
    ), printed
    until(lambda: jobs_of(control_plane, bench.namespace) == [])


def test_the_users_own_data_in_s3_are_shared_out_prepared_and_trained_on(
    bench: Bench, s3_server: S3Server, tmp_path: Path, control_plane: ControlPlane
) -> None:
    prefix = f"{bench.namespace}-data"
    bench.env["AWS_ENDPOINT_URL_S3"] = s3_server.endpoint  # of the user's own bucket
    registry = upload_world(tmp_path / "world", "cluster", prefix, s3_server.endpoint)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(own_recipe(registry), sort_keys=False))
    printed = bench.run("mine", *BESIDE, recipe=str(tmp_path / "mine.yaml"), small=())
    for step in ("prepare", "preflight", "see", "hear", "evaluate", "export", "report"):
        assert bench.final("mine", step) is not None, printed
    log = (bench.cache / "runs" / "mine" / "logs" / "pipeline.log").read_text()
    assert re.search(r"[1-9][0-9]* shards were done already, 0 were not", log), log
    until(lambda: jobs_of(control_plane, bench.namespace) == [])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """What the longer stage comes to on this machine alone."""
    root = tmp_path_factory.mktemp("undisturbed")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "vita_train.cli.main",
            "run",
            "smoke",
            "--until",
            "0.llm",
            "--set",
            f"storage.root={root}",
            *SMALL,
            *LONGER,
        ],
        check=True,
        capture_output=True,
    )
    manifest = read_final(open_store(str(root)), "smoke/0.llm")
    assert manifest is not None
    return manifest


def _assert_went_on(bench: Bench, run: str, undisturbed: Manifest, printed: str) -> None:
    """The stage was started again and trained on the same samples to the same loss as if nothing
    had happened."""
    manifest = bench.final(run, "0.llm")
    assert manifest is not None, printed
    assert manifest.lineage["world"] == 2
    assert manifest.lineage["restarts"] >= 1, printed
    assert _samples(manifest) == _samples(undisturbed)
    assert manifest.lineage["loss"] == pytest.approx(undisturbed.lineage["loss"], rel=1e-3)


def _has_saved(bench: Bench, run: str) -> bool:
    return any("/committed/" in key for key in bench.store.list(f"{run}/0.llm/"))


@pytest.mark.parametrize(
    ("policy", "pod"),
    [
        ("Never", "worker-0"),
        ("Never", "master-0"),
        ("OnFailure", "worker-0"),
        ("ExitCode", "worker-0"),
    ],
)
def test_a_pod_killed_on_its_way_costs_a_restart_and_no_sample(
    bench: Bench,
    node: Kubelet,
    control_plane: ControlPlane,
    undisturbed: Manifest,
    policy: str,
    pod: str,
) -> None:
    bench.set(restart_policy=policy)

    def kill() -> None:
        [job] = jobs_of(control_plane, bench.namespace)
        node.kill_pod(f"{job['metadata']['name']}-{pod}", signal.SIGKILL)

    killer = _when(lambda: _has_saved(bench, "broken"), kill)
    printed = bench.run("broken", "--until", "0.llm", *SHARDED, *LONGER)
    killer.result()
    _assert_went_on(bench, "broken", undisturbed, printed)
    until(lambda: jobs_of(control_plane, bench.namespace) == [])


def test_a_lost_node_costs_a_restart_on_another(
    bench: Bench,
    node: Kubelet,
    control_plane: ControlPlane,
    undisturbed: Manifest,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    core = client.CoreV1Api(control_plane.api)
    core.patch_node(node.name, {"spec": {"unschedulable": True}})
    other = Kubelet(control_plane.api, "node-b", tmp_path_factory.mktemp("node-b"))

    def lose() -> None:
        core.patch_node(node.name, {"spec": {"unschedulable": False}})
        other.stop()

    loser = _when(lambda: _has_saved(bench, "lost"), lose)
    try:
        printed = bench.run("lost", "--until", "0.llm", *SHARDED, *LONGER)
        loser.result()
        _assert_went_on(bench, "lost", undisturbed, printed)
        log = (bench.cache / "runs" / "lost" / "logs" / "pipeline.log").read_text()
        # The node controller may evict the pods of the silent node before the launcher finds that
        # they stay.
        assert re.search(r"node( node-b| with a pod of it) does not answer", log), log
        [left] = jobs_of(control_plane, bench.namespace)
        assert left["metadata"]["deletionTimestamp"], "it goes once its node is gone for good"
    finally:
        other.stop()
        core.patch_node(node.name, {"spec": {"unschedulable": False}})
        core.delete_node(other.name)
    until(lambda: not jobs_of(control_plane, bench.namespace), seconds=180)


def test_a_budget_that_is_used_up_is_told_with_the_reason(
    bench: Bench, node: Kubelet, control_plane: ControlPlane
) -> None:
    process = bench.start(
        "spent",
        "--until",
        "0.llm",
        *SHARDED,
        "--set",
        "launch.restarts=0",
        "--set",
        "stages.0.llm.steps=400",
    )

    def running() -> bool:
        return len(node.processes()) == 2

    def kill() -> None:
        [job] = jobs_of(control_plane, bench.namespace)
        node.kill_pod(f"{job['metadata']['name']}-worker-0", signal.SIGKILL)

    killer = _when(running, kill)
    printed = process.communicate()[0]
    killer.result()
    assert process.returncode == PeerLostError.exit_code, printed
    assert re.search(r"error: .*(NCCL|INFRA): ", printed), printed
    assert bench.final("spent", "0.llm") is None
