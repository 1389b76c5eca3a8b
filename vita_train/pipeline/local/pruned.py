"""The compiled pipeline without the steps that were not asked for: each would be a process that finds nothing to do."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from vita_train.recipe.selection import STEPS

Dag = dict[str, Any]


def pruned(path: Path, picked: Collection[str]) -> str:
    """Return the YAML of a compiled pipeline that holds some of its steps.

    What a step was to get from one that is left out, it finds in the run, as it does in the pipeline of a single
    stage. The exit handler, which is no step among the others, stays.

    Args:
        path: the compiled pipeline.
        picked: the steps to keep; if it has none of them, the first is kept, as a pipeline is never empty.
    """
    documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    for component in documents[0]["components"].values():
        if "dag" in component:
            _prune(component["dag"], picked)
    return yaml.safe_dump_all(documents, sort_keys=False)


def _prune(dag: Dag, picked: Collection[str]) -> None:
    tasks = dag["tasks"]
    names = [name for name, task in tasks.items() if _step(task) in picked]
    names = names or [name for name, task in tasks.items() if not task.get("dependentTasks")]
    kept = {name: tasks[name] for name in names}
    needed = {name: _needed(tasks, kept, name) for name in names}
    for name, task in kept.items():
        inputs = task["inputs"]
        _put(task, "dependentTasks", needed[name])
        _put(inputs, "artifacts", {key: source for key, source in inputs.get("artifacts", {}).items()
                                   if source["taskOutputArtifact"]["producerTask"] in kept})
    dag["tasks"] = kept


def _step(task: Dag) -> str:
    """Return the step of a task; its name on the page begins with it."""
    step = str(task["taskInfo"]["name"]).split()[0]
    assert step in STEPS, step
    return step


def _needed(tasks: Dag, kept: Dag, name: str) -> list[str]:
    """Return the kept tasks that come before one, through those that were left out."""
    found: set[str] = set()
    for other in tasks[name].get("dependentTasks", ()):
        found |= {other} if other in kept else set(_needed(tasks, kept, other))
    return sorted(found)


def _put(holder: Dag, key: str, value: Collection[Any]) -> None:
    """Set an entry, or remove it where there is nothing to say."""
    if value:
        holder[key] = value
    else:
        holder.pop(key, None)
