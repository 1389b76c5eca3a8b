"""Files with pretrained weights: found, and opened without trusting them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from vita_train.errors import CheckpointError
from vita_train.weights.header import read_header
from vita_train.weights.pickles import read_pickle

Tensors = dict[str, Callable[[], Tensor]]
"""Tensors of a file by name, each read when asked for."""

#: Safetensors first. The others are pickles, of which nothing but tensors is read.
_PATTERNS = ("*.safetensors", "pytorch_model*.bin")


def weight_files(source: str) -> list[Path]:
    """Return the weight files of a directory or hub name, or the one file that ``source`` names.

    Raises:
        CheckpointError: there is none.
    """
    place = Path(source).expanduser()
    if place.is_file():
        return [place]
    for pattern in _PATTERNS:
        directory = place if place.is_dir() else _fetched(source, pattern)
        if files := sorted(directory.glob(pattern)):
            return files
    raise CheckpointError(
        f"holds neither {' nor '.join(_PATTERNS)}",
        code="VT-WEIGHTS-078",
        where=source,
        remedy="give a directory with one of them, or a weight file itself",
    )


def open_weights(path: Path) -> Tensors:
    """Return the tensors of a safetensors file, or of a pickle that holds tensors alone.

    Raises:
        CheckpointError: the file cannot be read, or holds something else.
    """
    file = path.resolve()  # a hub's cache is made of links
    if path.suffix == ".safetensors":
        # partial, not a lambda: that would read whichever name the loop ended with
        return {name: partial(_read, file, name) for name in read_header(file)}
    return {name: partial(_same, tensor) for name, tensor in read_pickle(file).items()}


def _read(path: Path, name: str) -> Tensor:
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _fetched(source: str, pattern: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        # One pattern at a time, so that pickles are not fetched beside safetensors; JSON describes
        # the tower
        return Path(snapshot_download(source, allow_patterns=[pattern, "*.json"]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            "is not a directory, and no such hub repository can be fetched",
            code="VT-WEIGHTS-079",
            where=source,
            remedy="give a directory with *.safetensors",
        ) from error
