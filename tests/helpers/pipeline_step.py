"""What a cluster runs for a component of a compiled pipeline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

SMALL_WORLD = ("data.source.world.scale=0.005", "data.source.world.test_size=2")
"""Overrides of the smoke recipe for a world that is made in seconds."""


def container_of(pipeline: Mapping[str, Any], component: str) -> dict[str, Any]:
    """Return the container of a component as the pipeline's definition, its first document, has
    it."""
    return dict(pipeline["deploymentSpec"]["executors"][f"exec-{component}"]["container"])


def _constants(pipeline: Mapping[str, Any], component: str) -> dict[str, Any]:
    """Return the parameters that the pipeline itself gives to a component."""
    dags = [pipeline["root"], *(one for one in pipeline["components"].values() if "dag" in one)]
    return {
        name: value["runtimeValue"]["constant"]
        for dag in dags
        for task in dag["dag"]["tasks"].values()
        if task["componentRef"]["name"] == f"comp-{component}"
        for name, value in task["inputs"]["parameters"].items()
        if "runtimeValue" in value
    }


def command_of(
    pipeline: Mapping[str, Any], component: str, folder: str, **parameters: Any
) -> list[str]:
    """Return the command of a component, its placeholder filled in as Kubeflow Pipelines does.

    Args:
        pipeline: the definition, the first document of a compiled file.
        component: its name in there.
        folder: where artifacts and the executor's own output go.
        parameters: those of the component; further ones are those of the smoke recipe with a small
            world.
    """
    container = container_of(pipeline, component)
    declared = pipeline["components"][f"comp-{component}"]["outputDefinitions"]["artifacts"]
    told = {
        "inputs": {
            "parameterValues": {
                "recipe": "smoke",
                "run": "first",
                "steps": "",
                "force": False,
                "overrides": list(SMALL_WORLD),
                **_constants(pipeline, component),
                **parameters,
            }
        },
        "outputs": {
            "outputFile": f"{folder}/{component}.json",
            "artifacts": {
                name: {
                    "artifacts": [
                        {
                            "name": name,
                            "type": one["artifactType"],
                            "metadata": {},
                            "uri": f"{folder}/{name}",
                        }
                    ]
                }
                for name, one in declared.items()
            },
        },
    }
    return [
        *container["command"],
        *(json.dumps(told) if word == "{{$}}" else word for word in container["args"]),
    ]
