"""The registry: which record files and media roots make up each dataset and split."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_serializer, model_validator

from vita_train.data.sources.leniency import leniencies
from vita_train.data.sources.splitting import TRAIN, SplitOff
from vita_train.errors import DataError, RecipeError
from vita_train.recipe.base import MAX_NAME, MixWeight, Strict
from vita_train.recipe.data import Resampling
from vita_train.recipe.tasks import TASK_KINDS
from vita_train.recipe.yaml_tree import parse_yaml

#: Key of the root of all audio files.
AUDIO_ROOT = "audio"


class SplitSource(Strict):
    """Record file and media roots of one split."""

    records: str
    """JSON array or JSON Lines, plain or compressed by gzip or zstd; relative paths are relative to
    the registry file."""
    roots: dict[str, str] = Field(default_factory=dict)
    """Set key to directory. The key ``audio`` serves all audio files."""
    default: str | None = None
    """Key of the root of images and videos of records that name no set."""

    @field_validator("records")
    @classmethod
    def _some_file(cls, records: str) -> str:
        if not records.strip():
            raise ValueError("the path of the record file is empty")
        return records

    @field_validator("roots")
    @classmethod
    def _plain_keys(cls, roots: dict[str, str]) -> dict[str, str]:
        bad = [key for key in roots if not key or ":" in key]
        if bad:
            raise ValueError(f"root keys must not be empty or hold a colon: {bad}")
        if empty := [key for key, root in roots.items() if not root.strip()]:
            raise ValueError(f"the path of root {empty[0]!r} is empty")
        return roots

    @model_validator(mode="after")
    def _known_default(self) -> SplitSource:
        if self.default is not None and self.default not in self.roots:
            raise ValueError(f"default {self.default!r} is none of the roots {sorted(self.roots)}")
        return self

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: Any) -> dict[str, Any]:
        value: dict[str, Any] = handler(self)
        if self.default is None:
            value.pop("default", None)
        return value


class AudioLimits(Strict):
    """How the recordings of an audio special set are taken, within what the recipe allows."""

    min_seconds: float = Field(default=0.0, ge=0, le=86_400)
    """Shorter recordings are rejected."""
    max_seconds: float = Field(default=86_400, gt=0, le=86_400)
    """Longer recordings are rejected."""
    resampling: Resampling | None = None
    """What brings them to the recipe's rate; the recipe's ``data.audio.resampling`` where not
    given."""
    chunk_seconds: float | None = Field(default=None, ge=1, le=86_400)
    """Recordings that last longer are cut into equal chunks that last no longer. Each is a clip of
    its own, and all of them stand where the recording's placeholder does."""

    def chunks(self, samples: int, rate: int) -> list[tuple[int, int]]:
        """Return first sample, and one past the last, of each chunk of a recording; none where it
        stays whole."""
        if self.chunk_seconds is None or samples <= (most := int(self.chunk_seconds * rate)):
            return []
        count = -(-samples // most)
        edges = [place * samples // count for place in range(count + 1)]
        return list(pairwise(edges))


class Dataset(Strict):
    """One dataset: what its records ask for, and where the records of each split are.

    In a file the splits stand beside ``task``: ``{"task": "qa", "train": {...}, "test": {...}}``.
    """

    task: str
    """Kind of its task, which says how it is measured; `vita_train.recipe.tasks` has the list."""
    adapter: str | None = None
    """A layout of public files: a named set of leniencies."""
    lenient: list[str] = []
    """Leniencies beside the adapter's; without any the format is strict."""
    ratio: MixWeight = 1.0
    """Times the weight that a stage gives the dataset is how often its records are taken."""
    split_off: SplitOff | None = None
    """Splits that are made of the train records."""
    splits: dict[str, SplitSource]

    @property
    def leniencies(self) -> tuple[str, ...]:
        """Names of all leniencies, the adapter's included, in the order of their use."""
        return leniencies(self.adapter, self.lenient)

    @property
    def split_names(self) -> list[str]:
        """Every split, those that are split off included."""
        return [*self.splits, *(self.split_off.parts if self.split_off else ())]

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, value: Any) -> Any:
        if not isinstance(value, dict) or (
            isinstance(value.get("splits"), dict) and set(value) <= {*_OWN, "splits"}
        ):
            return value
        splits = {name: split for name, split in value.items() if name not in _OWN}
        return {**{key: value[key] for key in _OWN if key in value}, "splits": splits}

    @field_validator("task")
    @classmethod
    def _known(cls, task: str) -> str:
        if task not in TASK_KINDS:
            raise ValueError(f"there is no task kind {task!r}; {_kinds()}")
        return task

    @model_validator(mode="after")
    def _consistent(self) -> Dataset:
        leniencies(self.adapter, self.lenient)
        if self.split_off is not None:
            if TRAIN not in self.splits:
                raise ValueError("split_off takes records of train, and there is no such split")
            if both := sorted(set(self.split_off.parts) & set(self.splits)):
                raise ValueError(f"split_off makes {both[0]!r}, which the dataset has already")
        return self

    @model_serializer
    def _beside(self) -> dict[str, Any]:
        own = {
            "adapter": self.adapter,
            "lenient": self.lenient,
            "ratio": self.ratio if self.ratio != 1 else None,
            "split_off": self.split_off.model_dump() if self.split_off else None,
        }
        return {
            "task": self.task,
            **{key: value for key, value in own.items() if value},
            **{name: split.model_dump() for name, split in self.splits.items()},
        }


#: Keys of a dataset that are no splits.
_OWN = ("task", "adapter", "lenient", "ratio", "split_off")


class Registry(Strict):
    """Datasets by name."""

    format: Literal["vita-train/registry/v1"] = "vita-train/registry/v1"
    datasets: dict[str, Dataset]
    groups: dict[str, list[str]] = {}
    """Names under which several datasets are used together; one that stands twice counts twice."""
    no_tile_sets: list[str] = []
    """Set keys whose images and video frames are never tiled, beside the recipe's."""
    audio_sets: dict[str, AudioLimits] = {}
    """Datasets whose recordings have limits of their own."""

    @field_validator("datasets")
    @classmethod
    def _plain_names(cls, datasets: dict[str, Dataset]) -> dict[str, Dataset]:
        names = [
            *datasets,
            *(split for dataset in datasets.values() for split in dataset.split_names),
        ]
        bad = [name for name in names if not name or not name.replace("-", "_").isidentifier()]
        if bad:
            raise ValueError(
                f"names of datasets and splits must be words of letters, digits, _ and -: {bad}"
            )
        long = [f"{name[:20]}... ({len(name)})" for name in names if len(name.encode()) > MAX_NAME]
        if long:
            raise ValueError(
                f"names of datasets and splits become folders, of at most {MAX_NAME} bytes: {long}"
            )
        return datasets

    @model_validator(mode="after")
    def _known_names(self) -> Registry:
        for group, members in self.groups.items():
            if group in self.datasets:
                raise ValueError(f"group {group!r} has the name of a dataset")
            if not members:
                raise ValueError(f"group {group!r} is empty")
        for what, names in (
            *((f"group {group!r}", members) for group, members in self.groups.items()),
            ("audio_sets", list(self.audio_sets)),
        ):
            if unknown := [name for name in names if name not in self.datasets]:
                raise ValueError(f"{what} names {unknown[0]!r}, which is no dataset")
        return self

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: Any) -> dict[str, Any]:
        value: dict[str, Any] = handler(self)
        return {key: entry for key, entry in value.items() if entry or key == "datasets"}

    def members(self, name: str) -> dict[str, float]:
        """Return the datasets that a name stands for, with how often each is taken.

        Raises:
            DataError: it is neither a group nor a dataset; those that exist are listed.
        """
        if name in self.datasets:
            return {name: 1.0}
        if name not in self.groups:
            raise DataError(
                f"there is no dataset or group {name!r}",
                code="VT-DATA-048",
                remedy=f"there are {', '.join(sorted({*self.datasets, *self.groups}))}",
            )
        return {member: float(count) for member, count in Counter(self.groups[name]).items()}

    @property
    def tasks(self) -> dict[str, str]:
        """The task kind of each dataset."""
        return {name: dataset.task for name, dataset in sorted(self.datasets.items())}

    def save(self, path: Path) -> None:
        """Write the registry as JSON."""
        path.write_text(
            json.dumps(self.model_dump(), indent=1, sort_keys=True) + "\n", encoding="utf-8"
        )


def _kinds() -> str:
    return "kinds are " + ", ".join(f"{name} ({TASK_KINDS[name].about})" for name in TASK_KINDS)


def load_registry(path: Path) -> Registry:
    """Read a registry file (JSON or YAML).

    Raises:
        DataError: it is missing, not readable, not a registry, or names something twice.
    """
    try:
        return Registry.model_validate(_parsed(path.read_text(encoding="utf-8"), path))
    except OSError as error:
        raise DataError(
            f"registry cannot be read: {error.strerror}",
            code="VT-DATA-026",
            where=str(path),
            remedy="give the path of a registry file",
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing" and place.endswith(".task"):
            raise DataError(
                f"{place} is missing: the kind of task says how the dataset is measured",
                code="VT-DATA-027",
                where=str(path),
                remedy=f"add it beside the splits; {_kinds()}",
            ) from error
        raise DataError(
            f"registry is not valid: {place}: {first['msg']}",
            code="VT-DATA-028",
            where=str(path),
            remedy='a registry is {"format": "vita-train/registry/v1", "datasets": '
            '{name: {"task": kind, split: {"records": path, "roots": {set: dir}}}}}',
        ) from error
    except RecipeError as error:
        raise DataError(
            error.what,
            code=error.code,
            where=error.where,
            remedy=error.remedy or "correct the file",
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"registry is not valid JSON or YAML: {error}",
            code="VT-DATA-029",
            where=str(path),
            remedy="correct the file",
        ) from error


def _parsed(text: str, path: Path) -> Any:
    """Plain values of a JSON or YAML text; a key that is given twice is an error in both."""
    if path.suffix != ".json":
        return parse_yaml(text, str(path)).value

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in items]
        twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
        if twice is not None:
            parse_yaml(text, str(path))  # JSON is YAML, and this knows the lines
            raise RecipeError(
                f"{twice!r} is given twice",
                code="VT-RECIPE-008",
                where=str(path),
                remedy="remove one of them",
            )
        return dict(items)

    return json.loads(text, object_pairs_hook=pairs)


def resolve(base: Path, name: str) -> Path:
    """Return a path of the registry as an absolute one; ``base`` is the registry file."""
    return (base.parent / name).resolve()
