"""Tensors of torch's own files. Only tensors and plain containers are ever made of a pickle, and
nothing is run."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vita_train.errors import CheckpointError
from vita_train.weights.header import check_link

#: Containers that some trainers put around a state dict.
_AROUND = ("state_dict", "model", "module")


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Return the state dict of a ``.bin``, ``.pt`` or ``.pth`` file; tensors are mapped, not read.

    Raises:
        CheckpointError: the file is missing, damaged, of the format before torch 1.6, holds
            anything but tensors and plain values, or is a link out of its directory.
    """
    content = _plain_content(path)
    # Each once, from outside in: trainers nest them in this order
    for name in _AROUND:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    return _state_dict(content, path)


def read_groups(path: Path) -> dict[str, dict[str, Tensor]]:
    """Return the state dicts of a file that holds several by name; tensors are mapped, not read.
    What else stands beside them, such as a number of steps, is left out.

    Raises:
        CheckpointError: as `read_pickle` says, or there is no state dict in it.
    """
    content = _plain_content(path)
    groups = content.items() if isinstance(content, dict) else ()
    found = {
        str(name): _state_dict(value, path) for name, value in groups if isinstance(value, dict)
    }
    if not found:
        raise CheckpointError("holds no state dict by name", code="VT-WEIGHTS-087", where=str(path))
    return found


def _plain_content(path: Path) -> Any:
    check_link(path)
    if not path.is_file():
        raise CheckpointError("no such weights file", code="VT-WEIGHTS-065", where=str(path))
    # Files from before torch 1.6 are bare pickles, which weights_only does not map
    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            "is no file of torch.save, or of a format that cannot be read safely",
            code="VT-WEIGHTS-066",
            where=str(path),
            remedy="save it again with a current torch, or as safetensors",
        )
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            "holds more than tensors and plain values; nothing of it was run",
            code="VT-WEIGHTS-067",
            where=str(path),
            remedy="have its owner save the state dict alone",
        ) from error
    except (
        RuntimeError,
        OSError,
        EOFError,
        ValueError,
        KeyError,
        AttributeError,
        TypeError,
        IndexError,
        RecursionError,
        MemoryError,
        AssertionError,
    ) as error:
        raise CheckpointError(
            "is damaged: no tensors can be read",
            code="VT-WEIGHTS-068",
            where=str(path),
            remedy="copy it again",
        ) from error
    return content


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise CheckpointError("holds no state dict", code="VT-WEIGHTS-069", where=str(path))
    other = [
        name
        for name, value in content.items()
        if not isinstance(value, Tensor) or value.layout != torch.strided
    ]
    if other:
        raise CheckpointError(
            f"holds {other[0]!r}, which is no dense tensor", code="VT-WEIGHTS-070", where=str(path)
        )
    return content
