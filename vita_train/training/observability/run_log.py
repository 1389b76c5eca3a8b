"""The files a stage writes while it runs, for people and for the report. Rank 0 only; other ranks
hold a silent one.

``events.jsonl``, ``samples.jsonl`` and ``progress.json`` lie in the stage's local directory; when
the run's store is elsewhere they are published there now and then.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from vita_train.console import clock, say
from vita_train.errors import RecipeError
from vita_train.recipe.schema import TrackingSpec
from vita_train.storage.base import Store
from vita_train.training.observability.samples import compact

EVENTS, SAMPLES, PROGRESS = "events.jsonl", "samples.jsonl", "progress.json"
TENSORBOARD = "tensorboard"
#: Seconds between two lines of the log that say how far the stage is.
_LINE_EVERY = 30.0


class RunLog:
    """Curves, sample ids and progress of one stage.

    Args:
        directory: the stage's local directory; none makes every method do nothing.
        steps: steps of the stage.
        remote: store and prefix to publish to, when that is not the directory itself.
        page: called when the files are there for others, to show them.
    """

    def __init__(
        self,
        directory: Path | None,
        steps: int,
        *,
        remote: tuple[Store, str] | None = None,
        page: Callable[[], None] | None = None,
    ) -> None:
        self._directory = directory
        self._steps = steps
        self._remote = remote
        self._page = page
        self._files: dict[str, TextIO] = {}
        self._writers: list[Any] = []
        self._flush: list[Callable[[], None]] = []
        self._progress: dict[str, Any] = {"state": "running", "step": 0, "steps": steps}
        self._speed, self._said = math.nan, time.monotonic()
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)

    def set_steps(self, steps: int) -> None:
        """Take over another number of steps, when it has become known how long the stage trains."""
        self._steps = steps
        self._progress["steps"] = steps

    def track(self, tracking: TrackingSpec, name: str) -> None:
        """Open TensorBoard and wandb as the recipe asks.

        Raises:
            RecipeError: wandb is asked for and not installed.
        """
        if self._directory is None:
            return
        if tracking.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            writer = SummaryWriter(str(self._directory / TENSORBOARD))

            def to_tensorboard(step: int, values: Mapping[str, float]) -> None:
                for key, value in values.items():
                    writer.add_scalar(key, value, step)

            # TensorBoard buffers for minutes; its files are copied as they lie on disk
            self._flush.append(writer.flush)

            self._writers.append(to_tensorboard)
        if tracking.wandb_project:
            try:
                import wandb
            except ImportError as error:
                raise RecipeError(
                    "wandb is not installed",
                    code="VT-RECIPE-075",
                    where="tracking.wandb_project",
                    remedy="install vita-train[tracking] or remove the setting",
                ) from error
            run = wandb.init(
                project=tracking.wandb_project,
                name=_shown_as(name, tracking.run_name),
                # A fixed id, so that a resumed stage goes on in the same curves; ids hold no slash
                id=name.replace("/", "-"),
                resume="allow",
            )
            self._writers.append(lambda step, values: run.log(dict(values), step=step))

    def rewind(self, step: int) -> None:
        """Drop the lines after ``step``, which a killed attempt wrote beyond its last
        checkpoint."""
        if self._directory is None:
            return
        for name in (EVENTS, SAMPLES):
            path = self._directory / name
            if path.exists():
                kept = [
                    line
                    for line in path.read_text(encoding="utf-8").splitlines()
                    if _step_of(line) <= step
                ]
                _replace(path, "".join(f"{line}\n" for line in kept))

    def event(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line to the curves."""
        if self._directory is None:
            return
        self._speed = values.get("tokens_per_s", self._speed)
        finite = {
            name: value for name, value in values.items() if math.isfinite(value)
        }  # JSON has no others
        self._append(
            EVENTS,
            {
                "time": round(time.time(), 3),
                "step": step,
                "steps": self._steps,
                **{name: _short(value) for name, value in finite.items()},
            },
        )
        for write in self._writers:
            write(step, finite)

    def samples(self, step: int, ids: Sequence[str], total: int) -> None:
        """Record the global batch of a step; ``total`` is the id sum over all ranks."""
        if self._directory is not None:
            self._append(
                SAMPLES, {"step": step, "count": len(ids), "sum": total, "ids": compact(ids)}
            )

    def progress(self, **values: Any) -> None:
        """Merge values into ``progress.json``."""
        self._progress |= values
        if self._directory is not None:
            _replace(
                self._directory / PROGRESS, json.dumps(self._progress, ensure_ascii=False) + "\n"
            )
            if "step" in values and time.monotonic() - self._said >= _LINE_EVERY:
                self._said = time.monotonic()
                say(progress_line(self._progress, self._speed))

    def publish(self) -> None:
        """Copy the files to the run's store, if that is elsewhere, and have them shown."""
        if self._directory is None:
            return
        if self._remote is not None:
            self._copy(*self._remote)
        if self._page is not None:
            self._page()

    def _copy(self, store: Store, prefix: str) -> None:
        assert self._directory is not None
        for flush in self._flush:
            flush()
        for path in (
            *(self._directory / name for name in (EVENTS, SAMPLES, PROGRESS)),
            *sorted((self._directory / TENSORBOARD).glob("events.*")),
        ):
            if path.exists():
                key = path.relative_to(self._directory).as_posix()
                store.write(f"{prefix}/{key}", path.read_bytes())

    def close(self) -> None:
        """Close the files and publish them."""
        for file in self._files.values():
            file.close()
        self._files.clear()
        self.publish()

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        assert self._directory is not None
        if name not in self._files:
            self._files[name] = (self._directory / name).open("a", encoding="utf-8")
        file = self._files[name]
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
        # A process that is killed leaves whole lines, but perhaps for the last
        file.flush()


def _shown_as(name: str, given: str | None) -> str:
    """Return what a tracker calls ``<run>/<stage>`` where the run was given a name for it."""
    _, slash, stage = name.rpartition("/")
    return name if given is None else f"{given}{slash}{stage}" if slash else given


def progress_line(progress: Mapping[str, Any], tokens_per_s: float) -> str:
    """Return how far a stage is: ``step 2380/200000 · loss 0.579 · 41 k tok/s · 16:02:10 left``.

    Args:
        progress: content of ``progress.json``.
        tokens_per_s: of all ranks together; not a number where that is not known.
    """
    parts = [f"step {progress['step']}/{progress['steps']}"]
    if isinstance(loss := progress.get("loss"), float) and math.isfinite(loss):
        parts.append(f"loss {loss:.3f}")
    if math.isfinite(tokens_per_s):
        parts.append(
            f"{tokens_per_s / 1000:.0f} k tok/s"
            if tokens_per_s >= 10_000
            else f"{tokens_per_s:.0f} tok/s"
        )
    if "eta_s" in progress:
        parts.append(f"{clock(progress['eta_s'])} left")
    return " · ".join(parts)


def _short(value: float) -> float:
    # Nine digits give back a float32 exactly, in half the bytes
    return float(f"{value:.9g}") if isinstance(value, float) else value


def _step_of(line: str) -> float:
    """Return the step of a line; one that a killed process left unfinished counts as never
    written."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _replace(path: Path, text: str) -> None:
    # Renamed: whoever reads meanwhile sees the old file or the new one
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
