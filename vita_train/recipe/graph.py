"""The graph of a recipe's stages: what each starts after, in which order they run, whose weights
each goes on with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from vita_train.printable import printable

#: What a stage may be called. It is a folder of the run and part of labels on a cluster.
NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
#: Steps of the pipeline around the stages, in the order they run.
BEFORE: tuple[str, ...] = ("data_fetch", "prepare", "preflight")
AFTER: tuple[str, ...] = ("evaluate", "export", "report")
#: Names that mean something else in a run: steps, folders, and where weights from outside come
#: from.
RESERVED = frozenset({*BEFORE, *AFTER, "logs", "scratch", "recipe.yaml", "pretrained"})


@dataclass(frozen=True)
class Node:
    """What the graph knows of a stage."""

    after: tuple[str, ...]
    trains: tuple[str, ...]


class GraphError(ValueError):
    """Something is wrong with a stage's name or place in the graph."""

    def __init__(self, stage: str, key: str, what: str, remedy: str) -> None:
        self.stage, self.key, self.remedy = stage, key, remedy
        self.what = f"stage {printable(stage)} {what}"
        super().__init__(f"{self.what}: {remedy}")


def filled_in(after: Mapping[str, Sequence[str] | None]) -> dict[str, tuple[str, ...]]:
    """Return what each stage starts after, in the order of the file.

    A stage that does not say starts after the one written before it, the first after the data
    alone.
    """
    filled: dict[str, tuple[str, ...]] = {}
    previous: tuple[str, ...] = ()
    for name, said in after.items():
        filled[name] = previous if said is None else tuple(said)
        previous = (name,)
    return filled


def check_graph(nodes: Mapping[str, Node]) -> None:
    """Check names, dependencies and who trains what.

    Raises:
        GraphError: a name will not do, a stage starts after one that does not exist or in the end
            after itself, or a module is trained by two stages of which neither comes after the
            other, so that nothing says which of the two a later stage (or the finished model) goes
            on with.
    """
    for name, node in nodes.items():
        if not NAME.fullmatch(name):
            raise GraphError(
                name,
                "",
                "has a name that cannot be used",
                "use lower-case letters, digits, '.', '_' and '-', beginning and ending with a "
                "letter or "
                "digit, 63 at most",
            )
        if name in RESERVED:
            raise GraphError(
                name, "", "has a name that means something else in a run", "choose another name"
            )
        for parent in node.after:
            if parent not in nodes:
                raise GraphError(
                    name,
                    "after",
                    f"starts after {parent!r}, which the recipe lacks",
                    f"its stages are {', '.join(nodes)}",
                )
    in_order({name: node.after for name, node in nodes.items()})
    _check_trainers(nodes)


def in_order(after: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the stages in the order they run: each after all it waits for, else as they are
    written.

    Raises:
        GraphError: some wait for each other.
    """
    left, done = list(after), list[str]()
    while left:
        # The first that can run: among those that wait for nothing the order of the file decides
        ready = next((name for name in left if all(parent in done for parent in after[name])), None)
        if ready is None:
            circle = _circle(after, left)
            raise GraphError(
                circle[0],
                "after",
                f"starts in the end after itself ({' -> '.join(circle)})",
                "take one of these out of an after",
            )
        left.remove(ready)
        done.append(ready)
    return done


def ancestors(after: Mapping[str, Sequence[str]], name: str) -> tuple[str, ...]:
    """Return what must be done before a stage, in the order of the mapping."""
    found: set[str] = set()
    open_ends = list(after[name])
    while open_ends:
        # Also ends where stages wait for each other, which is checked elsewhere
        if (parent := open_ends.pop()) not in found:
            found.add(parent)
            open_ends += after[parent]
    return tuple(other for other in after if other in found)


def descendants(after: Mapping[str, Sequence[str]], name: str) -> tuple[str, ...]:
    """Return what waits for a stage, in the order of the mapping."""
    return tuple(other for other in after if name in ancestors(after, other))


def ends(after: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return the stages that no other waits for."""
    waited_for = {parent for parents in after.values() for parent in parents}
    return tuple(name for name in after if name not in waited_for)


def blocks(after: Mapping[str, Sequence[str]], group: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Return the stages in blocks of one group each, in the order they run.

    A pipeline can nest a block as one task: no stage of it waits for less than all that the block
    waits for, and nothing that waits for one of its stages could do with less than all of them. A
    group whose stages are further apart makes several blocks; a stage without a group is a block of
    its own.
    """
    before = {name: set(ancestors(after, name)) for name in after}
    found: list[tuple[str, ...]] = []
    for name in after:
        index = next(
            (
                index
                for index, block in enumerate(found)
                if group.get(name)
                and group.get(block[0]) == group[name]
                and _can_nest((*block, name), after, before)
            ),
            None,
        )
        if index is None:
            found.append((name,))
        else:
            found[index] = (*found[index], name)
    waits = {
        block: {
            other
            for other in found
            if other != block and any(parent in other for name in block for parent in after[name])
        }
        for block in found
    }
    ordered: list[tuple[str, ...]] = []
    while len(ordered) < len(found):
        ordered.append(
            next(block for block in found if block not in ordered and waits[block] <= {*ordered})
        )
    return ordered


def uncovered(
    pipeline: Mapping[str, Sequence[str]], after: Mapping[str, Sequence[str]]
) -> list[str]:
    """Return in words what a pipeline's graph lacks for a recipe's; nothing where it can run the
    recipe.

    Stages that the recipe does not have are passed over when the pipeline runs.
    """
    problems = []
    for name, parents in after.items():
        if name not in pipeline:
            problems.append(f"it has no stage {name}")
            continue
        before = ancestors(pipeline, name)
        problems += [
            f"its stage {name} does not wait for {parent}"
            for parent in parents
            if parent in pipeline and parent not in before
        ]
    return problems


def _can_nest(
    block: Sequence[str], after: Mapping[str, Sequence[str]], before: Mapping[str, set[str]]
) -> bool:
    inside = set(block)
    entries = {parent for name in block for parent in after[name]} - inside
    waiting = [name for name in after if name not in inside and inside & {*after[name]}]
    return all(entries <= before[name] for name in block) and all(
        inside <= before[name] for name in waiting
    )


def _check_trainers(nodes: Mapping[str, Node]) -> None:
    after = {
        name: nodes[name].after
        for name in in_order({name: node.after for name, node in nodes.items()})
    }
    before = {name: ancestors(after, name) for name in after}
    for first, second in combinations(after, 2):
        shared = [module for module in nodes[first].trains if module in nodes[second].trains]
        if shared and first not in before[second]:
            later = next(
                (name for name in after if {first, second} <= {*before[name]}), "the finished model"
            )
            raise GraphError(
                second,
                "after",
                f"trains {shared[0]}, and so does {first}, but neither comes after the "
                f"other: nothing says which of the two {later} goes on with",
                f"let one start after the other, or take {shared[0]} out of one's trainable",
            )


def _circle(after: Mapping[str, Sequence[str]], left: Iterable[str]) -> list[str]:
    """Return stages of which each starts after the next, the first and last the same."""
    waiting = set(left)
    # The first as written, so that the message is always the same
    path = [min(waiting, key=list(after).index)]
    while True:
        # There is one: whatever is left waits for something that is left
        step = next(parent for parent in after[path[-1]] if parent in waiting)
        if step in path:
            return [*path[path.index(step) :], step]
        path.append(step)
