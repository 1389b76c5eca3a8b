"""The registry: which record files and media roots make up each dataset and split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_serializer, model_validator

from vita_train.errors import DataError, RecipeError
from vita_train.recipe.base import MAX_NAME, Strict
from vita_train.recipe.tasks import TASK_KINDS
from vita_train.recipe.yaml_tree import parse_yaml


class SplitSource(Strict):
    """Record file and media roots of one split."""

    records: str
    """JSON array or JSON Lines; relative paths are relative to the registry file."""
    roots: dict[str, str] = Field(default_factory=dict)
    """Set key to directory. The key ``audio`` serves all audio files."""

    @field_validator("roots")
    @classmethod
    def _plain_keys(cls, roots: dict[str, str]) -> dict[str, str]:
        bad = [key for key in roots if not key or ":" in key]
        if bad:
            raise ValueError(f"root keys must not be empty or hold a colon: {bad}")
        return roots


class Dataset(Strict):
    """One dataset: what its records ask for, and where the records of each split are.

    In a file the splits stand beside ``task``: ``{"task": "qa", "train": {...}, "test": {...}}``.
    """

    task: str
    """Kind of its task, which says how it is measured; `vita_train.recipe.tasks` has the list."""
    splits: dict[str, SplitSource]

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, value: Any) -> Any:
        if not isinstance(value, dict) or (
            isinstance(value.get("splits"), dict) and set(value) <= {"task", "splits"}
        ):
            return value
        splits = {name: split for name, split in value.items() if name != "task"}
        return {**({"task": value["task"]} if "task" in value else {}), "splits": splits}

    @field_validator("task")
    @classmethod
    def _known(cls, task: str) -> str:
        if task not in TASK_KINDS:
            raise ValueError(f"there is no task kind {task!r}; {_kinds()}")
        return task

    @model_serializer
    def _beside(self) -> dict[str, Any]:
        return {
            "task": self.task,
            **{name: split.model_dump() for name, split in self.splits.items()},
        }


class Registry(Strict):
    """Datasets by name."""

    format: Literal["vita-train/registry/v1"] = "vita-train/registry/v1"
    datasets: dict[str, Dataset]

    @field_validator("datasets")
    @classmethod
    def _plain_names(cls, datasets: dict[str, Dataset]) -> dict[str, Dataset]:
        names = [*datasets, *(split for dataset in datasets.values() for split in dataset.splits)]
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
