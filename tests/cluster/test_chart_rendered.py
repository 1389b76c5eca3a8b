"""The chart as helm renders it: sound for every set of values, strict, and of one mind with the
code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from tests.helpers.cluster.chart import (
    CHART,
    VALUES,
    assert_fits,
    assert_within,
    helm,
    job_of,
    objects_of,
    platform_of,
)
from vita_train.cli.main import build_app
from vita_train.launch.kubernetes.trainjob import TrainJobs
from vita_train.recipe.platform import FOLDER, S3_SETTINGS, Platform
from vita_train.recipe.pod import PodSettings


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_every_set_of_values_makes_a_sound_chart(values: Path, tmp_path: Path) -> None:
    helm("lint", "--strict", CHART, "--values", values)
    objects = objects_of(
        helm("template", "one", CHART, "--namespace", "team", "--values", values).stdout
    )
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
    (config,) = (
        one
        for (kind, _), one in objects.items()
        if kind == "ConfigMap" and "platform.yaml" in one["data"]
    )
    s3 = given.get("s3", {})
    assert {name: config["data"].get(name, "") for name in S3_SETTINGS} == {
        "AWS_ENDPOINT_URL_S3": s3.get("endpoint", ""),
        "AWS_DEFAULT_REGION": s3.get("region", ""),
    }
    runtime = next((one for (kind, _), one in objects.items() if kind == "TrainingRuntime"), None)
    assert (runtime is not None) == (given.get("trainJob", {}).get("enabled") is True)
    if runtime:
        assert_fits(TrainJobs().manifest(job_of(platform)), runtime)


def _command(words: list[str]) -> tuple[Any, list[str]]:
    """The command of the command line that words name, and what is left of them."""
    group = typer.main.get_command(build_app()).commands[words[0]]  # type: ignore[attr-defined]
    return group.commands[words[1]], words[2:]


def test_the_janitor_runs_a_command_that_there_is() -> None:
    values = CHART / "ci" / "everything-values.yaml"
    job = objects_of(helm("template", "one", CHART, "--values", values).stdout)[
        "CronJob", "all-janitor"
    ]
    assert (job["spec"]["schedule"], job["spec"]["suspend"]) == ("0 * * * *", True)
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "steps", "the launcher's rights are what it needs"
    [container] = pod["containers"]
    assert container["image"] == yaml.safe_load(values.read_text())["images"]["launcher"]
    assert container["volumeMounts"][0]["mountPath"] == str(FOLDER)
    program, *words = container["command"]
    assert program == "vita-train"
    command, options = _command(words)
    assert command.make_context(words[1], options).params == {
        "dry_run": False,
        "workflow": 60.0,
        "terminated": 30.0,
        "over": 3600.0,
        "unfinished": 7200.0,
        "stores": ["s3://omni/runs", "s3://omni/more"],
    }
    assert {
        entry["name"]: entry.get("value") or entry["valueFrom"]["secretKeyRef"]["key"]
        for entry in container["env"]
        if entry["name"].startswith("AWS_")
    } == {
        "AWS_ENDPOINT_URL_S3": "https://s3.example",
        "AWS_DEFAULT_REGION": "overridden",
        "AWS_ACCESS_KEY_ID": "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY": "AWS_SECRET_ACCESS_KEY",
    }


def test_the_upload_compiles_for_this_release_and_uploads_what_it_compiled(tmp_path: Path) -> None:
    values = CHART / "ci" / "everything-values.yaml"
    rendered = objects_of(helm("template", "one", CHART, "--values", values).stdout)
    pod = rendered["Job", "all-upload-1"]["spec"]["template"]["spec"]
    [compiling], [uploading] = pod["initContainers"], pod["containers"]
    _, _, out, *options = compiling["command"]
    subprocess.run(
        [
            sys.executable,
            CHART.parents[1] / "pipelines" / "compile.py",
            f"--out={tmp_path}",
            *options,
        ],
        check=True,
        capture_output=True,
    )
    pipeline, platform = yaml.safe_load_all((tmp_path / "ladder.yaml").read_text())
    images = yaml.safe_load(values.read_text())["images"]
    assert {
        one["container"]["image"] for one in pipeline["deploymentSpec"]["executors"].values()
    } == set(images.values())
    for one in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        assert ("ConfigMap", one["configMapAsVolume"][0]["configMapName"]) in rendered
        assert ("Secret", one["secretAsEnv"][0]["secretName"]) in rendered
    program, *words = uploading["command"]
    command, (folder, *options) = _command(words)
    assert (program, f"--out={folder}") == ("vita-train", out)
    assert command.make_context(words[1], [folder, *options]).params == {
        "files": [Path(folder)],
        "endpoint": "http://ml-pipeline.kubeflow:8888",
        "namespace": "team",
    }


def test_prometheus_is_told_where_each_rank_exports() -> None:
    objects = objects_of(
        helm("template", "one", CHART, "--values", CHART / "ci" / "everything-values.yaml").stdout
    )
    assert objects["PrometheusRule", "all-training"]["spec"] == yaml.safe_load(
        (CHART / "rules" / "alerts.yaml").read_text()
    )
    dashboard = objects["ConfigMap", "all-dashboard"]
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "yes"
    assert json.loads(dashboard["data"]["vita-training.json"]) == json.loads(
        (CHART / "dashboards" / "training.json").read_text()
    )
    monitor = objects["PodMonitor", "all-training"]["spec"]
    pod = job_of(Platform(pod=PodSettings(metrics_port=9400)))
    assert_within(monitor["selector"]["matchLabels"], pod.labels)
    # As Prometheus names annotations: whatever is not a letter or a digit becomes an underscore.
    annotations = {
        "__meta_kubernetes_pod_annotation_" + re.sub("[^a-zA-Z0-9]", "_", name): port
        for name, port in pod.pod_annotations.items()
    }
    ports = [
        annotations.get(rule["sourceLabels"][1])
        for endpoint in monitor["podMetricsEndpoints"]
        for rule in endpoint["relabelings"]
        if rule.get("targetLabel") == "__address__"
    ]
    assert ports == ["9400", None], (
        "one endpoint for each rank that a pod may have; this one has a single rank"
    )


def test_the_defaults_are_the_codes_own(tmp_path: Path) -> None:
    objects = objects_of(helm("template", "one", CHART, "--namespace", "team").stdout)
    assert {kind for kind, _ in objects} == {"ServiceAccount", "Role", "RoleBinding", "ConfigMap"}
    assert platform_of(objects, tmp_path) == Platform(
        namespace="team", pod=PodSettings(service_account="vita-trainer")
    )
    served = helm(
        "template", "one", CHART, "--api-versions", "trainer.kubeflow.org/v1alpha1/TrainingRuntime"
    ).stdout
    assert ("TrainingRuntime", Platform().runtime) in objects_of(served)


def test_the_schema_says_what_the_code_takes() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    model = _bare(Platform.model_json_schema())
    definitions = {**model.pop("$defs"), "Platform": model}
    for filled_in in ("namespace", "store", "image", "runtime"):
        del model["properties"][filled_in]
    assert {name: schema["$defs"][name] for name in definitions} == definitions
    _assert_strict(schema)


def _bare(node: Any, *, is_names: bool = False) -> Any:
    """A model's schema without what the chart states elsewhere."""
    if isinstance(node, list):
        return [_bare(one) for one in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _bare(value, is_names=not is_names and key in ("properties", "$defs"))
        for key, value in node.items()
        if is_names or key not in ("title", "description", "default")
    }


def _assert_strict(node: Any) -> None:
    for one in node if isinstance(node, list) else node.values() if isinstance(node, dict) else ():
        _assert_strict(one)
    if isinstance(node, dict) and node.get("type") == "object":
        assert (
            node["additionalProperties"] is False
            if "properties" in node
            else "additionalProperties" in node
        ), node


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("platfrom.backend=auto", "'platfrom' not allowed"),
        ("platform.pod.memmory=1Gi", "'memmory' not allowed"),
        ("platform.pod.cpu=8", "/platform/pod/cpu': got number, want string"),
        ("platform.pod.run_as=0", "/platform/pod/run_as': minimum: got 0, want 1"),
        ("platform.backend=mpi", "/platform/backend': value must be one of 'auto'"),
        ("platform.namespace=other", "'namespace' not allowed"),
        ("trainJob.enabled=maybe", "/trainJob/enabled': value must be one of 'auto', true, false"),
        ("s3.accessKeyId=id", "accessKeyId and secretAccessKey go together"),
        (
            "images.trainer=registry.example/trainer:1",
            "images.trainer: registry.example/trainer:1 has no digest",
        ),
        (
            "images.data=registry.example/data@sha256:0123",
            "images.data: registry.example/data@sha256:0123 has no digest",
        ),
        ("kueue.clusterQueue=q", "platform.queue.name must name the LocalQueue"),
        ("serviceAccounts.trainer.create=false", "name the account to take"),
    ],
)
def test_wrong_values_are_refused_by_name(setting: str, words: str) -> None:
    done = helm("template", "one", CHART, "--set", setting, check=False)
    assert done.returncode != 0
    assert words in done.stderr.replace('"', "'"), done.stderr


def test_images_by_tag_are_taken_where_a_value_says_so() -> None:
    settings = "images.allowTags=true,images.launcher=registry.example/launcher:1"
    made = helm("template", "one", CHART, "--set", settings)
    assert 'image: "registry.example/launcher:1"' in made.stdout
