"""The public trainer's data configuration, ``dataset_config.py`` and ``__init__.py``, as plain
values, and the functions that its documentation names for it.

A configuration holds datasets (``chat_path``, ``data_ratio``, any other key a media root), groups
of datasets, stages that name groups, and global media roots.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vita_train.compat.vita.static import Folder
from vita_train.errors import UserError

CHAT_PATH, DATA_RATIO = "chat_path", "data_ratio"
_STAGES, _ROOTS, _AUDIO = "DataConfig", "FolderDict", "AudioFolder"
_NO_PATCH, _SPECIAL = "NoPatchSets", "AudioSpecialSets"
#: Words that look like settings of a dataset and are none; as keys they would be media roots.
_RESERVED = ("ratio", "path", "name", "type", "weight", "audio_path", "image_path", "split")


@dataclass
class PublicDataset:
    """One dataset of the configuration."""

    name: str
    """Its variable, or the stem of its file where it is written inside a group."""
    chat_path: str
    ratio: float = 1.0
    roots: dict[str, str] = field(default_factory=dict)
    where: str = ""
    """File and line."""
    lines: dict[str, int] = field(default_factory=dict)
    """Key to its line."""

    def at(self, key: str) -> str:
        """Return file, line and key for messages."""
        file, _, line = self.where.rpartition(":")
        return f"{file}:{self.lines.get(key, line)}: {self.name}.{key}"


@dataclass
class PublicConfig:
    """A whole configuration."""

    datasets: dict[str, PublicDataset] = field(default_factory=dict)
    groups: dict[str, list[str]] = field(default_factory=dict)
    """Variable to the names of its datasets."""
    stages: dict[str, list[str]] = field(default_factory=dict)
    """Key of ``DataConfig`` to the names of its datasets; several groups are joined."""
    folders: dict[str, str] = field(default_factory=dict)
    """``FolderDict``: media roots of every dataset that has no root of that key."""
    audio_folder: str = ""
    no_patch_sets: list[str] = field(default_factory=list)
    audio_special_sets: dict[str, dict[str, Any]] = field(default_factory=dict)
    where: str = ""


def read_config(folder: Path) -> PublicConfig:
    """Read a configuration by its syntax; nothing of it is executed.

    Args:
        folder: holds ``dataset_config.py``, ``__init__.py`` or both.

    Raises:
        UserError: something is missing, empty or not understood, with file, line and key.
    """
    files = Folder(folder)
    names = [name for name in ("dataset_config", "__init__") if (folder / f"{name}.py").exists()]
    if not names:
        raise UserError(
            "holds neither dataset_config.py nor __init__.py",
            code="VT-USE-138",
            where=str(folder),
            remedy="give the folder of the public configuration, vita/config",
        )
    values: dict[str, Any] = {}
    for name in names:
        values |= files.module(name).values
    config = PublicConfig(where=str(folder / f"{names[-1]}.py"))
    config.folders = _texts(values.get(_ROOTS, {}), _ROOTS, config.where)
    config.audio_folder = _text(values.get(_AUDIO, ""), _AUDIO, config.where)
    config.no_patch_sets = _names(values.get(_NO_PATCH, []), _NO_PATCH, config.where)
    config.audio_special_sets = _special(values.get(_SPECIAL, {}), config.where)
    variables: dict[int, str] = {}
    for name, value in values.items():
        if isinstance(value, dict) and CHAT_PATH in value:
            variables.setdefault(id(value), name)
    reader = _Reader(files, config, variables)
    for value in values.values():
        if isinstance(value, dict) and id(value) in variables:
            reader.dataset(value)
    for name, value in values.items():
        if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
            config.groups[name] = [reader.dataset(each) for each in value]
    stages = values.get(_STAGES, {})
    if not isinstance(stages, dict):
        raise UserError(
            f"{_STAGES} is no dictionary",
            code="VT-USE-139",
            where=config.where,
            remedy="map stages to groups",
        )
    for key, group in stages.items():
        config.stages[key] = reader.members(group, f"{_STAGES}[{key!r}]")
    if not config.datasets:
        raise UserError(
            "names no dataset",
            code="VT-USE-140",
            where=config.where,
            remedy=f"a dataset is a dictionary with {CHAT_PATH}",
        )
    return config


class _Reader:
    def __init__(self, files: Folder, config: PublicConfig, variables: dict[int, str]) -> None:
        self._files, self._config, self._variables = files, config, variables
        self._seen: dict[int, str] = {}

    def dataset(self, value: dict[str, Any]) -> str:
        """Take a dataset up and return its name."""
        if id(value) in self._seen:
            return self._seen[id(value)]
        file, line = self._files.spots.get(id(value), (Path(self._config.where), 1))
        chat_path = value.get(CHAT_PATH)
        name = self._variables.get(id(value)) or _stem(chat_path) or f"dataset_{line}"
        base, number = name, 2
        while name in self._config.datasets:
            name, number = f"{base}_{number}", number + 1
        lines = {key: self._files.keys.get((id(value), key), line) for key in value}
        found = PublicDataset(name, "", where=f"{file}:{line}", lines=lines)
        found.chat_path = _text(chat_path, found.at(CHAT_PATH), "")
        found.ratio = _ratio(value.get(DATA_RATIO, 1.0), found.at(DATA_RATIO))
        for key, root in value.items():
            if key in _RESERVED:
                raise UserError(
                    f"{key!r} is a reserved word and no media root",
                    code="VT-USE-141",
                    where=found.at(key),
                    remedy=f"settings are {CHAT_PATH} and {DATA_RATIO}; any other key names a root",
                )
            if key not in (CHAT_PATH, DATA_RATIO):
                found.roots[key] = _text(root, found.at(key), "")
        self._config.datasets[name] = found
        self._seen[id(value)] = name
        return name

    def members(self, group: Any, where: str) -> list[str]:
        """Return the names of the datasets of a group, or of a list of groups."""
        if isinstance(group, dict):
            return [self.dataset(group)]
        if not isinstance(group, list):
            raise UserError(
                f"{where} is {type(group).__name__}, no list of datasets",
                code="VT-USE-142",
                where=self._config.where,
                remedy="give a group, or a list of groups",
            )
        return [name for each in group for name in self.members(each, where)]


def check_required_keys(config: PublicConfig) -> list[str]:
    """Return what is missing or empty: paths of records and of media roots, with file, line and
    key."""
    found = [
        f"{each.at(CHAT_PATH)} is empty" for each in config.datasets.values() if not each.chat_path
    ]
    found += [
        f"{each.at(key)} is empty, and {_ROOTS} has no such key"
        for each in config.datasets.values()
        for key, root in each.roots.items()
        if not root and not config.folders.get(key)
    ]
    return found


def check_groups(groups: Mapping[str, Any]) -> list[str]:
    """Return which groups are no lists, or empty."""
    return [
        f"{name} is {'empty' if isinstance(group, list) else 'no list'}"
        for name, group in groups.items()
        if not isinstance(group, list) or not group
    ]


def check_chat_paths(config: PublicConfig) -> list[str]:
    """Return which record files do not exist, with file, line and key."""
    return [
        f"{each.at(CHAT_PATH)}: {each.chat_path} does not exist"
        for each in config.datasets.values()
        if each.chat_path and not Path(each.chat_path).is_file()
    ]


def add_stage(config: PublicConfig, name: str, datasets: Sequence[str]) -> None:
    """Add a stage at run time.

    Raises:
        UserError: it exists, or a dataset does not.
    """
    if name in config.stages:
        raise UserError(
            f"stage {name!r} exists",
            code="VT-USE-143",
            where=config.where,
            remedy="replace its group instead",
        )
    config.stages[name] = _known(config, datasets)


def replace_group(config: PublicConfig, name: str, datasets: Sequence[str]) -> None:
    """Give a stage other datasets.

    Raises:
        UserError: there is no such stage, or a dataset does not exist.
    """
    if name not in config.stages:
        raise UserError(
            f"there is no stage {name!r}",
            code="VT-USE-144",
            where=config.where,
            remedy=f"stages are {', '.join(config.stages) or 'none'}",
        )
    config.stages[name] = _known(config, datasets)


def validate(config: PublicConfig) -> list[str]:
    """Return everything that the checks above find."""
    return [
        *check_required_keys(config),
        *check_groups({**config.groups, **config.stages}),
        *check_chat_paths(config),
    ]


def audio_processing(config: PublicConfig, name: str) -> str:
    """Return how a dataset's recordings are taken: ``special`` or ``standard``."""
    return "special" if name in config.audio_special_sets else "standard"


def _known(config: PublicConfig, datasets: Sequence[str]) -> list[str]:
    for name in datasets:
        if name not in config.datasets:
            raise UserError(
                f"there is no dataset {name!r}",
                code="VT-USE-145",
                where=config.where,
                remedy=f"datasets are {', '.join(config.datasets)}",
            )
    return list(datasets)


def _stem(path: Any) -> str:
    if not isinstance(path, str):
        return ""
    stem = Path(path).name.split(".")[0]
    return "".join(letter if letter.isalnum() or letter in "_-" else "_" for letter in stem)


def _text(value: Any, key: str, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(
            f"is {value!r:.60}, no path",
            code="VT-USE-146",
            where=f"{where}: {key}" if where else key,
            remedy="give a text",
        )
    return value.strip()


def _texts(value: Any, key: str, where: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise UserError(
            f"{key} is no dictionary",
            code="VT-USE-147",
            where=where,
            remedy="map set keys to folders",
        )
    return {each: _text(root, f"{key}[{each!r}]", where) for each, root in value.items()}


def _names(value: Any, key: str, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise UserError(
            f"{key} is no list of set keys",
            code="VT-USE-148",
            where=where,
            remedy="give a list of texts",
        )
    return value


def _special(value: Any, where: str) -> dict[str, dict[str, Any]]:
    if isinstance(value, list):
        return {each: {} for each in _names(value, _SPECIAL, where)}
    if isinstance(value, dict):
        return {key: each if isinstance(each, dict) else {} for key, each in value.items()}
    raise UserError(
        f"{_SPECIAL} is no list", code="VT-USE-149", where=where, remedy="give a list of datasets"
    )


def _ratio(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(
            f"is {value!r:.60}, no number",
            code="VT-USE-150",
            where=where,
            remedy="give a number above 0",
        )
    if not (value > 0 and math.isfinite(value)):
        raise UserError(
            f"is {value}, which leaves no data",
            code="VT-USE-151",
            where=where,
            remedy="give a share above 0; more than 1 repeats records",
        )
    return float(value)
