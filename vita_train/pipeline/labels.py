"""What the nodes of a pipeline are called: the page cuts a name after twenty letters or so."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from vita_train.recipe.schema import Recipe
from vita_train.recipe.selection import step_title

#: Letters of a node's name that the page of Kubeflow Pipelines shows.
SHOWN = 20


def step_label(recipe: Recipe, step: str) -> str:
    """Return the name of a step's node: the step, and for a stage as many words of its title in a
    row as can be read."""
    if step not in recipe.stages:
        return step
    words = step_title(recipe, step).split()
    known = set(step.lower().replace("_", ".").split("."))
    words = [word for word in words if word.lower() not in known and word != step]
    room = SHOWN - len(step) - 1
    rows = [" ".join(words[first:end]) for first, end in combinations(range(len(words) + 1), 2)]
    fitting = [row for row in rows if len(row) <= room]
    # The last of the longest: what a title ends with is what the others begin with.
    return f"{step} {max(reversed(fitting), key=len)}" if fitting else step


def group_label(recipe: Recipe, block: Sequence[str], blocks: Sequence[Sequence[str]]) -> str:
    """Return the name of the node that nests a block of stages: their group, with the stages where
    other blocks are of the same group."""
    group = recipe.stages[block[0]].group
    shared = [other for other in blocks if recipe.stages[other[0]].group == group]
    if len(shared) == 1:
        return group
    whole = f"{group}: {', '.join(block)}"
    return whole if len(whole) <= SHOWN else f"{group}: {block[0]}.."
