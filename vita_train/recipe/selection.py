"""Which steps of the pipeline are to be done, and which stages a stage builds on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from vita_train.errors import RecipeError, UserError
from vita_train.recipe.aliases import stage_name
from vita_train.recipe.graph import AFTER, BEFORE, ancestors, descendants, ends
from vita_train.recipe.modules import AUDIO_PATH, IMAGE_PATH, MODULES
from vita_train.recipe.objectives import OBJECTIVES
from vita_train.recipe.schema import Recipe

#: The steps around the stages, in words.
_TITLES: dict[str, str] = {
    "data_fetch": "data fetch",
    "prepare": "data validation",
    "preflight": "preflight",
    "evaluate": "evaluation",
    "export": "export",
    "report": "report",
}


def step_graph(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """Return every step of a recipe's pipeline, in the order they run, with the steps that each
    waits for."""
    stages = stage_graph(recipe)
    graph: dict[str, tuple[str, ...]] = {
        "data_fetch": (),
        "prepare": ("data_fetch",),
        "preflight": ("prepare",),
    }
    graph |= {name: after or ("preflight",) for name, after in stages.items()}
    return graph | {
        "evaluate": ends(stages) or ("preflight",),
        "export": ("evaluate",),
        "report": ("export",),
    }


def stage_graph(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """Return the stages of a recipe, in the order they run, with those that each starts after.

    A recipe that was cut down to some of its stages in code has those alone.
    """
    return {
        name: tuple(parent for parent in spec.after or () if parent in recipe.stages)
        for name, spec in recipe.stages.items()
    }


def run_steps(recipe: Recipe) -> list[str]:
    """Return the steps of a recipe in the order they run."""
    return [*BEFORE, *recipe.stages, *AFTER]


def step_title(recipe: Recipe, step: str) -> str:
    """Return a step in words."""
    return recipe.stages[step].title if step in recipe.stages else _TITLES[step]


def step_name(recipe: Recipe, name: str) -> str:
    """Return a step's name, given as step, stage or alias.

    Raises:
        UserError: nothing is known by that name.
    """
    if name in _TITLES:
        return name
    try:
        return stage_name(name, recipe.stages)
    except RecipeError:
        steps = run_steps(recipe)
        near = get_close_matches(name, steps, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"steps are {', '.join(steps)}"
        raise UserError(f"unknown step {name!r}", code="VT-USE-091", remedy=hint) from None


@dataclass(frozen=True)
class Selection:
    """The steps asked for. Steps that are not picked keep what they committed before."""

    chosen: frozenset[str] | None = None
    """None picks every step."""
    force: bool = False
    """Do the picked steps again even where a commit with the same inputs exists."""

    @classmethod
    def parse(
        cls, recipe: Recipe, only: str = "", since: str = "", until: str = "", force: bool = False
    ) -> Selection:
        """Read a selection as users write it. The preflight goes with any stage.

        Args:
            recipe: the run's.
            only: steps, with commas between them.
            since: take this step and all that wait for it.
            until: take this step and all that it waits for.
            force: do them again.

        Raises:
            UserError: a step is unknown, ``until`` does not wait for ``since``, or ``only`` stands
                beside them.
        """
        if only and (since or until):
            raise UserError(
                "--only cannot be combined with --from or --until",
                code="VT-USE-092",
                remedy="give one or the other",
            )
        if only:
            names = [step_name(recipe, name.strip()) for name in only.split(",") if name.strip()]
            return cls(_guarded(recipe, names), force)
        if not since and not until:
            return cls(None, force)
        graph = step_graph(recipe)
        picked = set(graph)
        if since:
            first = step_name(recipe, since)
            picked &= {first, *descendants(graph, first)}
        if until:
            last = step_name(recipe, until)
            picked &= {last, *ancestors(graph, last)}
        if not picked:
            raise UserError(
                f"nothing lies between the two: {until} does not wait for {since}",
                code="VT-USE-093",
                where="--from, --until",
                remedy="swap them, or name the steps with --only",
            )
        return cls(_guarded(recipe, picked), force)

    @classmethod
    def of(cls, recipe: Recipe, steps: str, force: bool = False) -> Selection:
        """Read a selection as the page of Kubeflow Pipelines takes it, in one field.

        Args:
            recipe: the run's.
            steps: empty for all; ``1.1,1.2`` for these alone, ``1.1..`` for a step and all that
                wait for it, ``..1.3`` for a step and all that it waits for, ``1.1..1.3`` for both.
            force: do them again.

        Raises:
            UserError: as `parse`.
        """
        since, between, until = (part.strip() for part in steps.partition(".."))
        if between:
            return cls.parse(recipe, "", since, until, force)
        return cls.parse(recipe, steps, force=force)

    @staticmethod
    def written(only: str, since: str, until: str) -> str:
        """Return the three options of the command line as `of` reads them."""
        return f"{since}..{until}" if since or until else only

    def picks(self, step: str) -> bool:
        """Say whether a step is to be done."""
        return self.chosen is None or step in self.chosen

    def steps(self, recipe: Recipe) -> list[str]:
        """Return the picked steps that the recipe has, in the order they run."""
        return [step for step in run_steps(recipe) if self.picks(step)]


def _guarded(recipe: Recipe, steps: Iterable[str]) -> frozenset[str]:
    """Return steps, with the preflight if a stage is among them: none trains without."""
    picked = frozenset(steps)
    return picked | {"preflight"} if picked & {*recipe.stages} else picked


def modules_needed(recipe: Recipe, stage: str) -> tuple[str, ...]:
    """Return the modules that a stage's model has, as far as the recipe alone tells: data may need
    more.

    Those are what its objective cannot do without, what it trains, and what media pass through on
    their way to or from what it trains.
    """
    spec = recipe.stages[stage]
    found = {*OBJECTIVES[spec.objective].modules, *spec.trainable}
    if "llm" in found and found & {*IMAGE_PATH}:
        # To train one of them the language model has to read what all of them make
        found |= {*IMAGE_PATH}
    if "llm" in found and found & {*AUDIO_PATH}:
        found |= {*recipe.model.audio_adapter.modules}
    return tuple(name for name in MODULES if name in found)


def modules_read(recipe: Recipe, stage: str) -> tuple[str, ...]:
    """Return every module whose weights a stage may read.

    To what it needs come those that its objective may use, and that it or a stage before it is
    measured with, as far as a stage before it trains them.
    """
    upto = (*ancestors(stage_graph(recipe), stage), stage)
    specs = [OBJECTIVES[recipe.stages[name].objective] for name in upto]
    trained = {module for name in upto for module in recipe.stages[name].trainable}
    may = {
        *specs[-1].optional,
        *(
            module
            for spec in specs
            for measure in spec.measures
            for module in measure.modules
            if spec is specs[-1] or {*measure.modules} & {*recipe.stages[stage].trainable}
        ),
    }
    found = {*modules_needed(recipe, stage), *(may & trained)}
    return tuple(name for name in MODULES if name in found)


def trainers(recipe: Recipe, stage: str) -> dict[str, str]:
    """Return each module that stages before this one train, with the nearest of those stages."""
    return {
        module: name
        for name in ancestors(stage_graph(recipe), stage)
        # Ancestors come in the order they run, so that the last one that trains a module remains
        for module in recipe.stages[name].trainable
    }


def input_stages(recipe: Recipe, stage: str) -> list[str]:
    """Return the stages whose weights a stage may read: for each module the nearest before it that
    trains it."""
    nearest = trainers(recipe, stage)
    found = {nearest[module] for module in modules_read(recipe, stage) if module in nearest}
    return [name for name in recipe.stages if name in found]
