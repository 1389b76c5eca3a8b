"""Read a run, finished or not, into what the page shows. A file that is missing or damaged costs
its part of the page, never the page: a run that failed is the one people most want to read
about."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vita_train.errors import RecipeError, VitaError
from vita_train.evaluation.gates import GateResult, gate_results
from vita_train.recipe.load import parse_recipe
from vita_train.recipe.schema import Recipe
from vita_train.recipe.stage import StageSpec
from vita_train.report.words import DEFAULT_COLOUR, colours
from vita_train.runs.final import read_final
from vita_train.runs.manifest import Manifest
from vita_train.storage.base import MissingKeyError, Store

#: Steps around the ladder, in order, with the words the page uses.
STEP_TITLES: dict[str, str] = {
    "data_fetch": "The data fetch",
    "prepare": "The preparation of the data",
    "preflight": "The preflight",
    "evaluate": "The evaluation",
    "export": "The export",
}
#: Lines kept from the end of a log of a stage that failed.
LOG_LINES = 12


@dataclass
class StageView:
    """One rung of the ladder. ``state`` is done, failed, stopped, running or waiting."""

    name: str
    spec: StageSpec
    colour: str = DEFAULT_COLOUR
    """Of its group, in the style sheet."""
    state: str = "waiting"
    manifest: Manifest | None = None
    events: list[dict[str, Any]] = field(default_factory=list)
    progress: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    log_tail: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The stage's name in words."""
        return self.spec.title or self.name

    @property
    def is_bootstrap(self) -> bool:
        """Whether the stage replaces a pretrained part instead of training the omni model."""
        return self.spec.group == "base"

    @property
    def metrics(self) -> dict[str, float]:
        """Held-out measures of the final weights."""
        return (
            dict(self.manifest.metrics)
            if self.manifest
            else dict(self.progress.get("metrics") or {})
        )

    @property
    def gates(self) -> list[GateResult]:
        """The stage's gates; empty until it was measured."""
        return gate_results(self.spec, self.metrics) if self.metrics else []

    @property
    def passed_over(self) -> list[str]:
        """The checkpoints that could not be used when the stage was last started, each with the
        reason."""
        found = self.progress.get("passed_over")
        return [str(reason) for reason in found] if isinstance(found, list) else []

    @property
    def accepted(self) -> list[str]:
        """The gates that were missed and accepted, each with its value and bound."""
        found = self.lineage.get("accepted")
        return [str(reason) for reason in found] if isinstance(found, list) else []

    @property
    def seconds(self) -> float | None:
        """Wall time from the first logged step to the last, or as the stage's own record says."""
        recorded = self.lineage.get("seconds")
        if isinstance(recorded, int | float):
            return float(recorded)
        times = [
            event["time"] for event in self.events if isinstance(event.get("time"), int | float)
        ]
        return times[-1] - times[0] if len(times) > 1 else None

    @property
    def lineage(self) -> dict[str, Any]:
        """What the manifest says about where the weights come from."""
        return self.manifest.lineage if self.manifest else {}


@dataclass
class RunView:
    """Everything the page shows of a run. ``problems`` lists files that could not be read."""

    name: str
    uri: str
    recipe: Recipe | None
    recipe_text: str
    stages: list[StageView]
    steps: dict[str, Manifest | None]
    failed_steps: dict[str, dict[str, Any]]
    """Steps around the ladder that failed, with what they left as progress."""
    ledger: dict[str, Any]
    tasks: dict[str, str]
    """Dataset to the kind of its task."""
    samples: list[dict[str, Any]]
    problems: list[str]

    @property
    def final_metrics(self) -> dict[str, float]:
        """The newest value of every measure: the evaluation's, else the last stage's that took
        it."""
        metrics: dict[str, float] = {}
        for stage in self.stages:
            metrics.update(stage.metrics)
        evaluation = self.steps.get("evaluate")
        if evaluation:
            metrics.update(evaluation.metrics)
        return metrics


class RunReader:
    """Reads a run's small files and remembers what could not be read."""

    def __init__(self, stores: Sequence[Store]) -> None:
        self.stores = stores
        self.problems: list[str] = []

    def read(self, key: str) -> bytes | None:
        """Return a file's bytes from the first store that has it, or None if none can give it."""
        for store in self.stores:
            try:
                return store.read(key)
            except MissingKeyError:
                continue
            except VitaError as error:
                self.problems.append(str(error))
        return None

    def keys(self, prefix: str) -> list[str]:
        """Return the keys below a prefix in any store, sorted."""
        found: set[str] = set()
        for store in self.stores:
            try:
                found.update(store.list(prefix))
            except VitaError as error:
                self.problems.append(str(error))
        return sorted(found)

    def json(self, key: str) -> Any:
        """Return a parsed JSON file, or None."""
        data = self.read(key)
        if data is None:
            return None
        try:
            return json.loads(data)
        except ValueError as error:
            self.problems.append(f"{key}: not JSON ({error})")
            return None

    def json_lines(self, key: str) -> list[dict[str, Any]]:
        """Return the objects of a JSON-lines file. A last line cut short, as a killed process
        leaves it, is skipped."""
        rows = []
        for line in (self.read(key) or b"").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                rows.append(row)
        return rows

    def manifest(self, step: str) -> Manifest | None:
        """Return a step's manifest, or None."""
        for store in self.stores:
            try:
                manifest = read_final(store, step)
            except VitaError as error:
                self.problems.append(str(error))
                continue
            if manifest:
                return manifest
        return None

    def tail(self, key: str) -> list[str]:
        """Return the last lines of a text file."""
        text = (self.read(key) or b"").decode(errors="replace")
        return [line for line in text.splitlines() if line.strip()][-LOG_LINES:]


def read_run(reader: RunReader) -> RunView:
    """Collect a run."""
    uri = reader.stores[0].uri
    recipe, recipe_text = _recipe(reader)
    specs = recipe.stages if recipe else {}
    colour = colours(spec.group for spec in specs.values())
    stages = [_stage(reader, name, spec, colour[spec.group]) for name, spec in specs.items()]
    ledger, meta = (reader.json(f"prepare/corpus/{name}.json") for name in ("ledger", "meta"))
    tasks = meta.get("tasks") if isinstance(meta, dict) else None
    samples = reader.json("evaluate/samples.json")
    listed = samples.get("samples", []) if isinstance(samples, dict) else []
    return RunView(
        name=uri.rstrip("/").rsplit("/", 1)[-1],
        uri=uri,
        recipe=recipe,
        recipe_text=recipe_text,
        stages=stages,
        steps={name: reader.manifest(name) for name in STEP_TITLES},
        failed_steps=_failed_steps(reader),
        ledger=ledger if isinstance(ledger, dict) else {},
        tasks={str(name): str(task) for name, task in tasks.items()}
        if isinstance(tasks, dict)
        else {},
        samples=[sample for sample in listed if isinstance(sample, dict)],
        problems=reader.problems,
    )


def _failed_steps(reader: RunReader) -> dict[str, dict[str, Any]]:
    failed = {}
    for name in STEP_TITLES:
        progress = reader.json(f"{name}/progress.json")
        if isinstance(progress, dict) and progress.get("state") == "failed":
            failed[name] = progress
    return failed


def _recipe(reader: RunReader) -> tuple[Recipe | None, str]:
    text = (reader.read("recipe.yaml") or b"").decode(errors="replace")
    if not text:
        reader.problems.append("recipe.yaml: not there; the ladder cannot be shown")
        return None, ""
    try:
        return parse_recipe(text, "recipe.yaml"), text
    except RecipeError as error:
        reader.problems.append(str(error).splitlines()[0])
        return None, text


def _stage(reader: RunReader, name: str, spec: StageSpec, colour: str) -> StageView:
    progress = reader.json(f"{name}/progress.json")
    view = StageView(
        name,
        spec,
        colour,
        manifest=reader.manifest(name),
        events=reader.json_lines(f"{name}/events.jsonl"),
        progress=progress if isinstance(progress, dict) else {},
    )
    if view.manifest:
        view.state = "done"
        return view
    state = str(view.progress.get("state", "running" if view.events else "waiting"))
    # Only a committed manifest makes a stage done: one that says done without it was stopped on the
    # way.
    view.state = "stopped" if state == "done" else state
    if view.state in ("failed", "stopped"):
        view.reason = str(view.progress.get("reason") or "") or _rank_error(reader, name)
        # Of a rank of this machine, of torchrun, of a node of a queue
        logs = (f"{name}/logs/{log}.log" for log in ("rank-0", "launcher", "node-0"))
        view.log_tail = next(filter(None, map(reader.tail, logs)), [])
    return view


def _rank_error(reader: RunReader, name: str) -> str:
    """What the first rank that failed on purpose left behind."""
    for key in reader.keys(f"{name}/logs/"):
        if key.endswith(".error.json"):
            recorded = reader.json(key)
            if isinstance(recorded, dict) and recorded.get("what"):
                return str(
                    VitaError(
                        str(recorded["what"]),
                        code="VT-FAIL-008",
                        where=str(recorded.get("where") or ""),
                        remedy=str(recorded.get("remedy") or ""),
                    )
                )
    return ""


def parameter_counts(stage: StageView) -> tuple[dict[str, int], dict[str, int]]:
    """Return (trained, frozen) modules with their numbers of parameters.

    Before a stage is done only the recipe is known: its trained modules are listed with a count of
    0.
    """
    trained = _counts(stage.lineage.get("trained"))
    frozen = _counts(stage.lineage.get("frozen"))
    return trained or dict.fromkeys(stage.spec.trainable, 0), frozen


def _counts(value: Any) -> dict[str, int]:
    if not isinstance(value, Mapping):
        return {}
    return {
        str(name): int(count) for name, count in value.items() if isinstance(count, int | float)
    }
