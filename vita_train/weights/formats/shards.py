"""The safetensors files of a directory as one set of tensors, by its shard index where it has
one."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import yaml

from vita_train.errors import CheckpointError
from vita_train.weights.header import check_link
from vita_train.weights.stream import StoredTensor, tensors_in

INDEX = "model.safetensors.index.json"
#: Bytes of the largest JSON or YAML file that is read; real ones have some hundred kilobytes.
_LARGEST_TEXT = 64 << 20


def read_shards(
    directory: Path, wanted: Callable[[Collection[str]], Collection[str]] = lambda names: names
) -> dict[str, StoredTensor]:
    """Return the tensors of a directory's safetensors files; headers are read, data are not.

    Args:
        directory: with one file, or with several and their index.
        wanted: which names of an index matter; files that hold none of them are not opened.

    Raises:
        CheckpointError: there is no file, one is damaged or missing, a tensor is stored twice, or
            the index names files outside the directory or other tensors than the files hold.
    """
    index = directory / INDEX
    listed = _weight_map(index) if index.is_file() else None
    if listed:
        # All, where none is wanted: the report then says what is there instead
        opened = {listed[name] for name in wanted(listed)} or set(listed.values())
        listed = {name: file for name, file in listed.items() if file in opened}
    names = (
        sorted(set(listed.values()))
        if listed
        else sorted(path.name for path in directory.glob("*.safetensors"))
    )
    if not names:
        raise CheckpointError(
            "holds no *.safetensors file", code="VT-WEIGHTS-042", where=str(directory)
        )
    found: dict[str, StoredTensor] = {}
    file_of: dict[str, str] = {}
    for name in names:
        if not (directory / name).is_file():
            raise CheckpointError(
                f"names {name!r}, which is missing",
                code="VT-WEIGHTS-043",
                where=str(index),
                remedy="copy it again",
            )
        for key, tensor in tensors_in(directory / name).items():
            if key in found:
                raise CheckpointError(
                    f"tensor {key!r} is stored twice, in {file_of[key]} and {name}",
                    code="VT-WEIGHTS-044",
                    where=str(directory),
                    remedy="remove the file that does not belong there",
                )
            found[key], file_of[key] = tensor, name
    # An index that disagrees is of other files: one of the two is old
    if listed and listed != file_of:
        key = sorted(listed.items() ^ file_of.items())[0][0]
        raise CheckpointError(
            f"and the files disagree about tensor {key!r}",
            code="VT-WEIGHTS-045",
            where=str(index),
            remedy="copy the checkpoint again",
        )
    return found


def read_settings(path: Path) -> Any:
    """Return the content of a JSON or YAML file of someone else; YAML makes plain values alone.

    Raises:
        CheckpointError: it is a link out of its directory, absurdly large, or neither.
    """
    try:
        return (
            yaml.safe_load(read_text(path))
            if path.suffix != ".json"
            else json.loads(read_text(path))
        )
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        kind = "JSON" if path.suffix == ".json" else "plain YAML"
        raise CheckpointError(f"is not {kind}", code="VT-WEIGHTS-054", where=str(path)) from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the object of a JSON file of someone else.

    Raises:
        CheckpointError: it is a link out of its directory, absurdly large, or no JSON object.
    """
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError("is not JSON", code="VT-WEIGHTS-046", where=str(path)) from error
    if not isinstance(value, dict):
        raise CheckpointError("is not a JSON object", code="VT-WEIGHTS-047", where=str(path))
    return value


def read_text(path: Path) -> str:
    """Return the text of a file of someone else.

    Raises:
        CheckpointError: it is missing, a link out of its directory, absurdly large, or no text.
    """
    # Before it is opened: a checkpoint from the net may hold links to files of this machine
    check_link(path)
    try:
        if path.stat().st_size > _LARGEST_TEXT:
            raise CheckpointError(
                f"has more than {_LARGEST_TEXT} bytes", code="VT-WEIGHTS-048", where=str(path)
            )
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError("cannot be read", code="VT-WEIGHTS-049", where=str(path)) from error


def _weight_map(index: Path) -> dict[str, str]:
    found = read_json(index).get("weight_map")
    if (
        not isinstance(found, dict)
        or not found
        or not all(isinstance(name, str) for name in found.values())
    ):
        raise CheckpointError(
            "has no weight_map of tensors to files", code="VT-WEIGHTS-050", where=str(index)
        )
    for name in sorted(set(found.values())):
        if (
            name != Path(name).name
            or "\\" in name
            or "\0" in name
            or not name.endswith(".safetensors")
        ):
            raise CheckpointError(
                f"names {name!r}, which is not a safetensors file of its directory",
                code="VT-WEIGHTS-051",
                where=str(index),
                remedy="do not use a checkpoint from this place",
            )
    return found
