"""Which held-out measures exist, what each needs, and which ones a stage takes.

A stage takes the measures of its own goals and those of every stage before it, as far as it trained
anything they depend on; the others cannot have changed. A dataset becomes a goal with the first
stage that trains on it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vita_train.data.index.corpus import Corpus
from vita_train.recipe.graph import ancestors
from vita_train.recipe.objectives import OBJECTIVES
from vita_train.recipe.schema import Recipe
from vita_train.recipe.selection import stage_graph
from vita_train.recipe.tasks import TASK_KINDS

#: The split that is looked at while a stage trains.
DEV = "dev"


@dataclass(frozen=True)
class Task:
    """Measures that one pass over one held-out slice takes together."""

    kind: str
    """What is run: replies, states, or the kind of a `vita_train.recipe.objectives.Measure`."""
    dataset: str
    """Dataset of the corpus the slice belongs to."""
    slice: str
    modules: tuple[str, ...]
    """Modules the measures depend on."""
    measures: tuple[str, ...]
    """Last parts of the measures' names."""
    prefix: str = ""
    """First part of the measures' names, where it is not the dataset's name."""

    @property
    def names(self) -> tuple[str, ...]:
        """Full names of the measures."""
        return tuple(
            f"{self.prefix or self.dataset}.{self.slice}.{measure}" for measure in self.measures
        )


def stage_tasks(recipe: Recipe, corpus: Corpus, stage: str) -> list[Task]:
    """Return the tasks of a stage: its own and its predecessors', without those it cannot have
    changed."""
    upto = [*ancestors(stage_graph(recipe), stage), stage]
    trained = recipe.stages[stage].trainable
    return [
        task
        for task in _tasks(recipe, corpus, upto)
        if any(name in trained for name in task.modules)
    ]


def all_tasks(recipe: Recipe, corpus: Corpus, modules: Iterable[str]) -> list[Task]:
    """Return every task of the recipe that the given modules allow."""
    present = set(modules)
    return [
        task
        for task in _tasks(recipe, corpus, list(recipe.stages))
        if present.issuperset(task.modules)
    ]


def dev_tasks(recipe: Recipe, corpus: Corpus, stage: str) -> list[Task]:
    """Return the tasks of the dev splits of all datasets a stage trains on, those of its curriculum
    included."""
    spec = recipe.stages[stage]
    return [
        task
        for dataset in spec.datasets
        if DEV in corpus.datasets.get(dataset, ())
        for task in _of_slice(recipe, corpus, dataset, DEV, spec.objective)
    ]


def measures_for(recipe: Recipe, corpus: Corpus, stage: str) -> list[str]:
    """Return the names of the measures a stage takes."""
    return [name for task in stage_tasks(recipe, corpus, stage) for name in task.names]


def modules_for(recipe: Recipe, corpus: Corpus, stage: str) -> set[str]:
    """Return the modules that the measures of a stage need, which may be more than it trains or
    loads."""
    return {name for task in stage_tasks(recipe, corpus, stage) for name in task.modules}


def _tasks(recipe: Recipe, corpus: Corpus, stages: list[str]) -> list[Task]:
    """Tasks of all datasets that the given stages train on, with modules that they train or that
    come pretrained."""
    available = recipe.model.pretrained.union(
        recipe.weights, *(recipe.stages[stage].trainable for stage in stages)
    )
    goals: dict[tuple[str, str], None] = {}
    for stage in stages:
        spec = recipe.stages[stage]
        goals |= dict.fromkeys((dataset, spec.objective) for dataset in spec.data)
    tasks = []
    for dataset, objective in goals:
        for name in corpus.datasets.get(dataset, ()):
            if name.startswith("test"):
                tasks += _of_slice(recipe, corpus, dataset, name, objective)
    # A later stage may train on a dataset whose modules came before its own; what is missing is
    # left out.
    return [task for task in dict.fromkeys(tasks) if available.issuperset(task.modules)]


def _of_slice(
    recipe: Recipe, corpus: Corpus, dataset: str, name: str, objective: str
) -> list[Task]:
    """Return the tasks that an objective takes of a slice, and, where it trains replies, those of
    its task kind."""
    declared = OBJECTIVES[objective]
    tasks = [
        Task(measure.kind, dataset, name, measure.modules, measure.names, measure.dataset)
        for measure in declared.measures
    ]
    return tasks + (_of_replies(recipe, corpus, dataset, name) if declared.measures_replies else [])


def _of_replies(recipe: Recipe, corpus: Corpus, dataset: str, name: str) -> list[Task]:
    kind, modules = TASK_KINDS[corpus.tasks[dataset]], _reply_modules(corpus, dataset, name)
    exact: tuple[str, ...] = ("loss",)
    tasks = []
    if kind.exact:
        # The mark says whether and how the model was spoken to: there is something to tell only
        # where some are.
        heard = any(corpus.index(dataset, split).frames.any() for split in corpus.datasets[dataset])
        mode = recipe.data.state_mode
        exact = (
            "accuracy",
            "loss",
            *(("state_mark",) if heard and mode in ("glyph", "digit") else ()),
        )
        if mode == "head" and corpus.index(dataset, name).frames.any():
            tasks.append(Task("states", dataset, name, (*modules, "state_head"), ("state_mark",)))
    more = [
        Task(
            measure.kind,
            dataset,
            name,
            (*modules, *measure.modules),
            measure.names,
            measure.dataset,
        )
        for measure in kind.measures
    ]
    return [Task("replies", dataset, name, modules, exact), *tasks, *more]


def _reply_modules(corpus: Corpus, dataset: str, name: str) -> tuple[str, ...]:
    """The language model, and what the media of a slice pass through."""
    index = corpus.index(dataset, name)
    seen = ("vision", "projector") if index.tiles.any() else ()
    heard = index.settings.adapter.modules if index.frames.any() else ()
    return ("llm", *seen, *heard)
