"""How many pods Kubeflow Pipelines starts for a compiled pipeline."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_CONDITION = re.compile(r"int\(inputs\.parameter_values\['[\w-]+'\]\) <= (\d+)")


def pods_started(pipeline: Mapping[str, Any], todo: int) -> int:
    """Count the pods of a run that succeeds: one for each graph that is opened and each condition
    that is looked at, two for each component that runs.

    Args:
        pipeline: the definition, the first document of a compiled file.
        todo: what its first step says of what is to do.
    """
    return 1 + _inside(pipeline, pipeline["root"]["dag"], todo)


def _inside(pipeline: Mapping[str, Any], dag: Mapping[str, Any], todo: int) -> int:
    found = 0
    for task in dag["tasks"].values():
        component = pipeline["components"][task["componentRef"]["name"]]
        condition = task.get("triggerPolicy", {}).get("condition")
        found += 1
        if condition is None or _holds(condition, todo):
            found += _inside(pipeline, component["dag"], todo) if "dag" in component else 1
    return found


def _holds(condition: str, todo: int) -> bool:
    found = _CONDITION.fullmatch(condition)
    assert found, condition
    return todo <= int(found[1])
