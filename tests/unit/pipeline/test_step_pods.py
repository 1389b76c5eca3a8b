"""Steps that do not train get the pods and the volumes that the recipe or the chart states."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from vita_train.pipeline.compiled import sources
from vita_train.recipe.load import load_recipe
from vita_train.recipe.platform import merge_step_pods
from vita_train.recipe.pod import StepPod

SETTINGS = """
launch:
  settings:
    kubernetes:
      pod:
        volumes:
          - {name: corpora, persistentVolumeClaim: {claimName: big}}
          - {name: site, nfs: {server: files, path: /}}
          - {name: scratch, emptyDir: {}}
        volume_mounts:
          - {name: corpora, mountPath: /data, subPath: omni}
          - {name: site, mountPath: /site}
          - {name: scratch, mountPath: /scratch}
      steps:
        all: {memory: 32Gi}
        prepare: {cpu: "16", memory: 64Gi, node_selector: {pool: cpu}}
        evaluate:
          gpus: 1
          tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]
"""
PLATFORM = "steps: {all: {cpu: '2'}}\n"


@pytest.fixture(scope="module")
def compiled(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, Any], dict[str, Any], str]:
    """The pipeline of a recipe with volumes, compiled beside the chart's settings: both of its
    documents, and what was said."""
    folder = tmp_path_factory.mktemp("compiled")
    smoke = Path(load_recipe.__code__.co_filename).parent / "presets" / "smoke.yaml"
    tree = yaml.safe_load(smoke.read_text())
    tree["name"] = "mine"
    tree["launch"] = {**tree.get("launch", {}), **yaml.safe_load(SETTINGS)["launch"]}
    (folder / "mine.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    (folder / "platform.yaml").write_text(PLATFORM)
    command = [sys.executable, str(sources() / "pipelines" / "compile.py")]
    done = subprocess.run(
        [*command, "--recipe", str(folder / "mine.yaml"), "--out", str(folder)],
        env={**os.environ, "VITA_TRAIN_PLATFORM": str(folder / "platform.yaml")},
        text=True,
        capture_output=True,
        check=True,
    )
    pipeline, platform = yaml.safe_load_all((folder / "mine.yaml").read_text())
    return pipeline, platform["platforms"]["kubernetes"]["deploymentSpec"], done.stderr


def test_they_mount_what_training_mounts(
    compiled: tuple[dict[str, Any], dict[str, Any], str],
) -> None:
    _, kubernetes, said = compiled
    for name, executor in kubernetes["executors"].items():
        claims = [
            (mount["pvcNameParameter"]["runtimeValue"]["constant"], mount["mountPath"])
            for mount in executor.get("pvcMount", [])
        ]
        # Of a step that starts a training job the pods are the job's, and have them already.
        assert claims == ([] if name.startswith("exec-train-") else [("big", "/data")]), name
    assert "volume site (nfs)" in said
    assert "scratch" not in said


def test_they_get_their_own_resources(
    compiled: tuple[dict[str, Any], dict[str, Any], str],
) -> None:
    pipeline, kubernetes, _ = compiled
    executors = pipeline["deploymentSpec"]["executors"]

    def resources(step: str) -> dict[str, Any]:
        found: dict[str, Any] = executors[f"exec-{step}"]["container"].get("resources", {})
        return found

    assert resources("data-validation")["resourceCpuLimit"] == "16"
    assert resources("data-validation")["resourceMemoryLimit"] == "64Gi"
    assert resources("data-fetch")["resourceCpuLimit"] == "2", "what the chart says"
    assert resources("data-fetch")["resourceMemoryLimit"] == "32Gi"
    assert resources("evaluate")["accelerator"]["resourceCount"] == "1"
    assert not any(resources(name[5:]) for name in executors if name.startswith("exec-train-"))
    placed = kubernetes["executors"]
    assert placed["exec-data-validation"]["nodeSelector"]["labels"] == {"pool": "cpu"}
    [toleration] = placed["exec-evaluate"]["tolerations"]
    assert (toleration["key"], toleration["operator"]) == ("nvidia.com/gpu", "Exists")


def test_a_recipe_goes_over_the_chart_and_a_step_over_all() -> None:
    chart = {"all": StepPod(cpu="2", memory="8Gi"), "prepare": StepPod(cpu="4")}
    own = {"all": StepPod(memory="16Gi")}
    assert merge_step_pods("prepare", [chart, own]) == StepPod(cpu="4", memory="16Gi")
    assert merge_step_pods("export", [chart, own]) == StepPod(cpu="2", memory="16Gi")
