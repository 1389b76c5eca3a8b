"""Held-out measures of a stage: of its final weights, and of those it has while it trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from vita_train.data.index.corpus import Corpus
from vita_train.errors import RecipeError
from vita_train.evaluation.measures import measure_tasks, task_cost, wanted_tasks
from vita_train.evaluation.tasks import Task, dev_tasks, measures_for, modules_for
from vita_train.recipe.modules import MODULES
from vita_train.recipe.schema import Recipe
from vita_train.training.inputs import Inputs
from vita_train.training.parallel.distributed import World, gather_when_done
from vita_train.training.weights import load_inputs


def measure_stage(
    stage: str,
    recipe: Recipe,
    corpus: Corpus,
    modules: nn.ModuleDict,
    inputs: Inputs,
    world: World,
    *,
    together: bool,
) -> dict[str, float]:
    """Return the measures of a stage's slices on at most ``eval.max_samples`` samples each.

    Modules that only measuring needs (the recogniser that listens to resynthesised speech) are
    loaded beside the trained ones where an earlier stage has made them.

    Args:
        stage: stage id.
        recipe: the run's recipe.
        corpus: its prepared data.
        modules: with their final weights.
        inputs: what the stage started from.
        world: this rank among all.
        together: all ranks have the modules and call this; each measures a share, and all get the
            whole. Otherwise rank 0 alone calls it, and the others have ended.
    """
    names = measures_for(recipe, corpus, stage)
    if not names:
        return {}
    needed = modules_for(recipe, corpus, stage)
    # In the order of MODULES: that of a set differs between processes
    extra = tuple(
        name
        for name in MODULES
        if name in needed and name in inputs.modules and name not in modules
    )
    for name, module in load_inputs(
        recipe, inputs, extra, ctc_vocab_size=len(corpus.ctc_vocab)
    ).items():
        modules[name] = module.to(next(modules.parameters()).device).eval()
    tasks = wanted_tasks(recipe, corpus, modules, names)
    most = recipe.stages[stage].eval.max_samples
    found = _measured(recipe, corpus, modules, tasks, most, world, together=together)
    return {name: value for name, value in found.items() if name in names}


def _measured(
    recipe: Recipe,
    corpus: Corpus,
    modules: nn.ModuleDict,
    tasks: Sequence[Task],
    max_samples: int,
    world: World,
    *,
    together: bool = True,
) -> dict[str, float]:
    """Take the measures of tasks, of all ranks together each its share; the same on every rank."""
    parts = shared_out(tasks, corpus, max_samples, world.size if together else 1)
    mine = parts[world.rank if together else 0]
    with _processors(world, busy=sum(map(bool, parts))):
        found = measure_tasks(
            recipe,
            corpus,
            modules,
            mine,
            max_samples=max_samples,
            device=next(modules.parameters()).device,
        )
    everyone = gather_when_done(found) if together else [found]
    values = {name: value for part in everyone for name, value in part.items()}
    # In the order of tasks, whichever rank measured them
    return {name: values[name] for task in tasks for name in task.names if name in values}


def shared_out(
    tasks: Sequence[Task], corpus: Corpus, max_samples: int, ranks: int
) -> list[list[Task]]:
    """Divide tasks among ranks, so that all end at about the same time: the longest first, each to
    the rank that has least to do."""
    costs = {task: task_cost(task, corpus, max_samples) for task in tasks}
    parts: list[list[Task]] = [[] for _ in range(ranks)]
    loads = [0.0] * ranks
    # sorted is stable: tasks of equal cost keep their order, and every rank deals the same
    for task in sorted(tasks, key=lambda task: -costs[task]):
        rank = loads.index(min(loads))
        parts[rank].append(task)
        loads[rank] += costs[task]
    return parts


class DevMeasures:
    """Takes measures of single datasets' dev splits while a stage trains, each rank a share.

    The engine must hold whole modules in every process, as engine torch does; training goes on as
    if nothing had been measured.

    Args:
        stage: stage id.
        recipe: the run's recipe.
        corpus: its prepared data.
        modules: the modules that train and those they need.
        world: this rank among all.
    """

    def __init__(
        self, stage: str, recipe: Recipe, corpus: Corpus, modules: nn.ModuleDict, world: World
    ) -> None:
        self._recipe, self._corpus, self._modules, self._world = recipe, corpus, modules, world
        self._max_samples = recipe.stages[stage].eval.max_samples
        self._tasks = {
            name: task
            for task in dev_tasks(recipe, corpus, stage)
            for name in task.names
            if all(module in modules for module in task.modules)
        }

    def check(self, names: Sequence[str], *, where: str) -> None:
        """Refuse names of measures that do not exist.

        Raises:
            RecipeError: with the names that do.
        """
        for name in names:
            if name not in self._tasks:
                raise RecipeError(
                    f"there is no measure {name!r}",
                    code="VT-RECIPE-061",
                    where=where,
                    remedy=f"measures here: {', '.join(sorted(self._tasks)) or 'none'}, and "
                    f"dev.loss",
                )

    def __call__(self, names: Sequence[str]) -> dict[str, float]:
        """Return the named measures, the same on every rank."""
        # A task gives several measures and must run once, in the order first asked for
        tasks = list(dict.fromkeys(self._tasks[name] for name in names))
        found = _measured(
            self._recipe, self._corpus, self._modules, tasks, self._max_samples, self._world
        )
        return {name: found[name] for name in names if name in found}


@contextmanager
def _processors(world: World, *, busy: int) -> Iterator[None]:
    """Let this process use the processors of ranks of its machine that have nothing to measure."""
    threads = torch.get_num_threads()
    if world.device.type == "cpu":
        torch.set_num_threads(max(1, threads * world.size // max(1, busy)))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
