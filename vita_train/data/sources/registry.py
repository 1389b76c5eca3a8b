"""The registry: which record files and media roots make up each dataset and split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from vita_train.errors import DataError, RecipeError
from vita_train.recipe.base import Strict
from vita_train.recipe.yaml_tree import parse_yaml


class SplitSource(Strict):
    """Record file and media roots of one split."""

    records: str
    """JSON array or JSON Lines; relative paths are relative to the registry file."""
    roots: dict[str, str] = Field(default_factory=dict)
    """Set key to directory. The key ``audio`` serves all sound files."""

    @field_validator("roots")
    @classmethod
    def _plain_keys(cls, roots: dict[str, str]) -> dict[str, str]:
        bad = [key for key in roots if not key or ":" in key]
        if bad:
            raise ValueError(f"root keys must not be empty or hold a colon: {bad}")
        return roots


class Registry(Strict):
    """Datasets by name, splits by name."""

    format: Literal["vita-train/registry/v1"] = "vita-train/registry/v1"
    datasets: dict[str, dict[str, SplitSource]]

    @field_validator("datasets")
    @classmethod
    def _plain_names(cls, datasets: dict[str, dict[str, SplitSource]]) -> dict[str, dict[str, SplitSource]]:
        names = [*datasets, *(split for splits in datasets.values() for split in splits)]
        bad = [name for name in names if not name or not name.replace("-", "_").isidentifier()]
        if bad:
            raise ValueError(f"names of datasets and splits must be words of letters, digits, _ and -: {bad}")
        return datasets

    def save(self, path: Path) -> None:
        """Write the registry as JSON."""
        path.write_text(json.dumps(self.model_dump(), indent=1, sort_keys=True) + "\n", encoding="utf-8")


def load_registry(path: Path) -> Registry:
    """Read a registry file (JSON or YAML).

    Raises:
        DataError: it is missing, not readable, not a registry, or names something twice.
    """
    try:
        return Registry.model_validate(_parsed(path.read_text(encoding="utf-8"), path))
    except OSError as error:
        raise DataError(f"registry cannot be read: {error.strerror}", where=str(path),
                        remedy="give the path of a registry file") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise DataError(f"registry is not valid: {place}: {first['msg']}", where=str(path),
                        remedy='a registry is {"format": "vita-train/registry/v1", "datasets": '
                               '{name: {split: {"records": path, "roots": {set: dir}}}}}') from error
    except RecipeError as error:
        raise DataError(error.what, where=error.where, remedy=error.remedy or "correct the file") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"registry is not valid JSON or YAML: {error}", where=str(path),
                        remedy="correct the file") from error


def _parsed(text: str, path: Path) -> Any:
    """Plain values of a JSON or YAML text; a key that is given twice is an error in both."""
    if path.suffix != ".json":
        return parse_yaml(text, str(path)).value

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in items]
        twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
        if twice is not None:
            parse_yaml(text, str(path))  # JSON is YAML, and this knows the lines
            raise RecipeError(f"{twice!r} is given twice", where=str(path), remedy="remove one of them")
        return dict(items)

    return json.loads(text, object_pairs_hook=pairs)


def resolve(base: Path, name: str) -> Path:
    """Return a path of the registry as an absolute one; ``base`` is the registry file."""
    return (base.parent / name).resolve()
