"""The child process that compiles a recipe's pipeline and runs it under kfp.local; its output is
the pipeline's log.

python -m vita_train.pipeline.local.execute RECIPE.yaml ARGUMENTS.json STEPS SCRATCH
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from vita_train.launch.process import die_with_parent
from vita_train.pipeline.compiled import sources
from vita_train.recipe.load import load_recipe
from vita_train.recipe.schema import Recipe
from vita_train.storage.scratch import scratch_folder


def main() -> int:
    """Run the pipeline; 1 when a task failed."""
    signal.signal(signal.SIGTERM, _stop_all)
    die_with_parent()
    recipe, arguments, scratch = load_recipe(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[4])
    steps = sys.argv[3].split(",")

    sys.path.insert(0, str(sources()))
    from kfp import components, local
    from kfp.local import graph_utils

    from pipelines.compile import compile_recipe

    # kfp.local takes tasks that could run at the same time in the order of a protobuf map, another
    # in every process.
    graph_utils.topological_sort_tasks = lambda tasks: task_stack(tasks, steps, recipe)
    # kfp.local deletes its workspace when it ends: it must be a directory of its own.
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str(scratch / "outputs"),
        workspace_root=str(scratch / "workspace"),
    )
    run = components.load_component_from_file(
        str(compile_recipe(recipe, scratch / "pipeline.yaml", steps))
    )
    # kfp's tasks leave their program in the place for temporary files.
    with scratch_folder(Path(tempfile.gettempdir()), "run") as temporary:
        os.environ["TMPDIR"] = str(temporary)
        try:
            run(**json.loads(arguments.read_text(encoding="utf-8")))
        except (
            RuntimeError
        ) as error:  # what kfp raises when a task has failed; the task's own words stand above
            print(error)
            return 1
    return 0


def task_stack(tasks: Mapping[str, Any], steps: Sequence[str], recipe: Recipe) -> list[str]:
    """Return the names of tasks with the one that runs first at the end.

    Each comes after all it waits for, else in the order of the steps. A task's name on the page
    begins with its step; a group's is the group, or has steps in it (`group_label`).
    """

    def position(name: str) -> int:
        label = tasks[name].task_info.name
        words = {word.rstrip(".") for word in re.split(r"[\s,:]+", label)}
        inside = [
            place
            for place, step in enumerate(steps)
            if step in words or (step in recipe.stages and recipe.stages[step].group == label)
        ]
        return min(inside, default=len(steps))

    left, order = sorted(tasks, key=lambda name: (position(name), name)), list[str]()
    while left:
        ready = next(
            name for name in left if not any(other in left for other in tasks[name].dependent_tasks)
        )
        left.remove(ready)
        order.append(ready)
    return order[::-1]


def _stop_all(number: int, frame: FrameType | None) -> None:
    """Pass the signal on to the tasks, which are in this process's group, and go."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
