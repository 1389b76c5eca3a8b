"""The pipeline of a recipe: from raw data to a report, with the recipe's stages as they wait for
each other.

A task gets no artifacts of others: what a step needs it finds in the run, whoever made it, so a
pipeline may leave steps out. Stages of one group are nested as one task as far as that makes none
of them wait for longer. The first step says from where on there is something to do; groups before
that are passed over, and all of them where everything is committed. Parameters have defaults, so
that a run can be started from the KFP page by filling in the recipe alone.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.data_fetch.component import data_fetch
from components.data_validation.component import data_validation
from components.evaluate.component import evaluate
from components.export.component import export
from components.preflight.component import preflight
from components.report.component import report
from components.train_stage.component import train_stage
from pipelines.cluster import on_cluster
from vita_train.pipeline.labels import group_label, step_label
from vita_train.pipeline.remaining import position
from vita_train.recipe.graph import ancestors, blocks
from vita_train.recipe.schema import Recipe
from vita_train.recipe.selection import run_steps, stage_graph, step_graph

#: What the page's form asks for; it shows names alone, so the pipeline's description has these.
PARAMETERS: dict[str, str] = {
    "recipe": "name of a shipped recipe, s3:// URI of one, or the YAML text itself",
    "run": "name of the run; empty takes the recipe's. A run that exists is continued; {date} and "
    "{time} are filled in, so that a recurring run trains anew",
    "storage_root": "s3:// URI of the runs' folder; empty takes the recipe's, or the chart's store",
    "overrides": 'settings as a list, such as ["stages.1.1.steps=500", "seed=1"]',
    "steps": "steps to do, empty for all: 1.1,1.2 for these alone, 1.1.. for a step and all that "
    "wait for it, ..1.3 for a step and all that it waits for, 1.1..1.3 for both",
    "force": "do the chosen steps again even if they are committed",
}


def as_pipeline(
    function: Callable[..., None], name: str, about: str, parameters: Collection[str]
) -> BaseComponent:
    """Make a pipeline of a function, with what it does and what its parameters mean as its
    description and as its parameters' own."""
    helps = [f"{name}: {PARAMETERS[name]}." for name in parameters]
    function.__doc__ = "\n".join([about, "", "Args:", *(f"    {text}" for text in helps)])
    return dsl.pipeline(name=name, description="\n".join([about, "", *helps]))(function)


def named(task: dsl.PipelineTask, recipe: Recipe, step: str) -> dsl.PipelineTask:
    """Name a task after its step and give it what it needs on a cluster."""
    # Our own commits decide what is done again; KFP's cache knows nothing of the recipe's content.
    return (
        on_cluster(task, recipe, step)
        .set_display_name(step_label(recipe, step))
        .set_caching_options(False)
    )


def recipe_pipeline(
    recipe: Recipe, *, name: str, default: str, picked: Collection[str] | None = None
) -> BaseComponent:
    """Return the pipeline of a recipe.

    Args:
        recipe: whose stages it has.
        name: of the pipeline on a server.
        default: what its parameter ``recipe`` is unless given.
        picked: the steps it has; None for all. What waits for a step that is left out waits for
            what that waits for.
    """
    parts = _parts(recipe, [step for step in run_steps(recipe) if picked is None or step in picked])

    about = f"Train the stages of {recipe.name} from raw data to a report."

    def pipeline(
        recipe: str = default,
        run: str = "",
        storage_root: str = "",
        overrides: list = [],  # noqa: B006  KFP reads the default, nothing changes it
        steps: str = "",
        force: bool = False,
    ) -> None:
        common = {
            "recipe": recipe,
            "run": run,
            "storage_root": storage_root,
            "overrides": overrides,
            "steps": steps,
            "force": force,
        }
        _tasks(parts, common)

    return as_pipeline(pipeline, name, about, PARAMETERS)


def trainer_of(stage: str) -> BaseComponent:
    """Return the component that trains stages, under the stage's own name.

    kfp tells components of nested pipelines apart by their names, and numbers equal ones in an
    order that differs from one compilation to the next.
    """
    component = deepcopy(train_stage)
    component.name = component.component_spec.name = f"train-{slug(stage)}"
    return component


def slug(text: str) -> str:
    """Return a text as part of a name in Kubeflow Pipelines."""
    return re.sub("[^a-z0-9]+", "-", text.lower())


@dataclass(frozen=True)
class _Parts:
    """What a pipeline is made of."""

    recipe: Recipe
    steps: list[str]
    waits: dict[str, list[str]]
    """The steps of the pipeline that each waits for."""
    blocks: dict[tuple[str, ...], BaseComponent | None]
    """Stages that become one task, in the order they run, with the component that nests them; None
    for a stage that stands by itself."""


def _parts(recipe: Recipe, steps: list[str]) -> _Parts:
    waits = _among(step_graph(recipe), steps)
    stages = [step for step in steps if step in recipe.stages]
    after = {stage: [other for other in waits[stage] if other in recipe.stages] for stage in stages}
    groups = {stage: recipe.stages[stage].group for stage in stages}
    # Before the pipeline that holds them: kfp makes one at a time. A block of one stage gains
    # nothing from a pod that opens it.
    nested = {
        block: _nested(recipe, block, after) if len(block) > 1 else None
        for block in blocks(after, groups)
    }
    return _Parts(recipe, steps, waits, nested)


def _tasks(parts: _Parts, common: dict[str, Any]) -> None:
    if "report" not in parts.steps:
        _body(parts, common)
        return
    page = named(report(**common), parts.recipe, "report")
    if len(parts.steps) > 1:
        # The page shows how far a run came: it is written whatever happened before.
        with dsl.ExitHandler(page, name="training"):
            _body(parts, common)


def _body(parts: _Parts, common: dict[str, Any]) -> None:
    """Make the tasks of all steps but the report, those after the first under the condition that
    one of them has something to do."""
    others = [step for step in parts.steps if step not in ("data_fetch", "report")]
    if "data_fetch" not in parts.steps:
        _steps(parts, common, 0)
        return
    graph = json.dumps({name: list(after) for name, after in stage_graph(parts.recipe).items()})
    first = named(data_fetch(**common, stages=graph), parts.recipe, "data_fetch")
    if others:
        todo = first.outputs["Output"]
        with dsl.If(todo <= position(parts.recipe.stages, others[-1]), name="to do"):
            _steps(parts, common, todo)


def _steps(parts: _Parts, common: dict[str, Any], todo: Any) -> None:
    """Make the tasks of the steps between the first and the report.

    Every stage leads to the evaluation, so that the graph has one end: Argo, which executes it,
    then lets branches that do not depend on a failed one go on.
    """
    recipe = parts.recipe
    tasks: dict[str, dsl.PipelineTask] = {}

    def add(members: Sequence[str], task: dsl.PipelineTask) -> None:
        waited_for = {
            id(tasks[other]): tasks[other]
            for step in members
            for other in parts.waits[step]
            if other in tasks
        }
        task.after(*waited_for.values())
        tasks.update(dict.fromkeys(members, task))

    def step(name: str, component: BaseComponent, **more: Any) -> None:
        if name in parts.steps:
            add([name], named(component(**common, **more), recipe, name))

    step("prepare", data_validation)
    step("preflight", preflight)
    for block, component in parts.blocks.items():
        if component is None:
            step(block[0], trainer_of(block[0]), stage=block[0])
        else:
            group = component(todo=todo, **common)
            group.set_display_name(group_label(recipe, block, list(parts.blocks)))
            add(block, group.set_caching_options(False))
    step("evaluate", evaluate)
    step("export", export)


def _nested(
    recipe: Recipe, block: Sequence[str], after: Mapping[str, Sequence[str]]
) -> BaseComponent:
    """Return a component that holds the stages of a group, under the condition that there is
    something to do for one of them or before."""
    resolved = recipe  # the parameter of this name is another

    @dsl.pipeline(name=slug(f"{recipe.stages[block[0]].group} {' '.join(block)}"))
    def inner(
        todo: int,
        recipe: str,
        run: str,
        storage_root: str,
        overrides: list,
        steps: str,
        force: bool,
    ) -> None:
        common = {
            "recipe": recipe,
            "run": run,
            "storage_root": storage_root,
            "overrides": overrides,
            "steps": steps,
            "force": force,
        }
        tasks: dict[str, dsl.PipelineTask] = {}
        last = max(position(resolved.stages, stage) for stage in block)
        with dsl.If(todo <= last, name=f"{block[0]} to {block[-1]}"):
            for stage in block:
                task = named(trainer_of(stage)(stage=stage, **common), resolved, stage)
                known = [tasks[other] for other in after[stage] if other in tasks]
                tasks[stage] = task.after(*known)

    return inner


def _among(graph: Mapping[str, Sequence[str]], steps: Sequence[str]) -> dict[str, list[str]]:
    """Return what each of some steps waits for among them, through those that are left out."""
    before = {step: {other for other in ancestors(graph, step) if other in steps} for step in steps}
    return {
        step: [
            other
            for other in steps
            if other in before[step]
            and not any(other in before[between] for between in before[step])
        ]
        for step in steps
    }
