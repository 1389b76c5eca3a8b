"""Held-out measures of a stage: of its final weights, and of those it has while it trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from vita_train.data.index.corpus import Corpus
from vita_train.errors import RecipeError
from vita_train.evaluation.measures import measure, measure_tasks
from vita_train.evaluation.tasks import dev_tasks, measures_for, modules_for
from vita_train.recipe.modules import MODULES
from vita_train.recipe.schema import Recipe
from vita_train.training.inputs import Inputs
from vita_train.training.parallel.distributed import World, broadcast_json
from vita_train.training.weights import load_inputs


def measure_stage(
    stage: str, recipe: Recipe, corpus: Corpus, modules: nn.ModuleDict, inputs: Inputs
) -> dict[str, float]:
    """Return the measures of a stage's slices on at most ``eval.max_samples`` samples each; runs on
    rank 0 alone.

    Modules that only measuring needs (the recogniser that listens to resynthesised speech) are
    loaded beside the trained ones where an earlier stage has made them.
    """
    names = measures_for(recipe, corpus, stage)
    if not names:
        return {}
    device = next(modules.parameters()).device
    needed = modules_for(recipe, corpus, stage)
    extra = tuple(
        name
        for name in MODULES
        if name in needed and name in inputs.modules and name not in modules
    )
    for name, module in load_inputs(
        recipe, inputs, extra, ctc_vocab_size=len(corpus.ctc_vocab)
    ).items():
        modules[name] = module.to(device).eval()
    return measure(
        recipe,
        corpus,
        modules,
        names,
        max_samples=recipe.stages[stage].eval.max_samples,
        device=device,
    )


class DevMeasures:
    """Takes measures of single datasets' dev splits while a stage trains. Rank 0 measures, the
    others wait.

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
        values: dict[str, float] | None = None
        if self._world.rank == 0:
            with all_processors(self._world):
                tasks = dict.fromkeys(self._tasks[name] for name in names)
                values = measure_tasks(
                    self._recipe,
                    self._corpus,
                    self._modules,
                    tasks,
                    max_samples=self._max_samples,
                    device=self._world.device,
                )
        found: dict[str, float] = broadcast_json(values)
        return {name: found[name] for name in names if name in found}


@contextmanager
def all_processors(world: World) -> Iterator[None]:
    """Let this process use the processors of all ranks of its machine, which wait for it or have
    ended."""
    threads = torch.get_num_threads()
    if world.device.type == "cpu":
        torch.set_num_threads(threads * world.size)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
