"""The directory of VITA's speech encoder: ``train.yaml``, ``global_cmvn`` and ``final.pt``."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vita_train.errors import CheckpointError
from vita_train.weights.formats.shards import read_settings, read_text
from vita_train.weights.formats.train_yaml import FILE
from vita_train.weights.pickles import read_pickle

#: Least variance of a filterbank bin.
_VARIANCE_FLOOR = 1e-20
_STATISTICS = ("encoder.global_cmvn.mean", "encoder.global_cmvn.istd")


def is_speech_directory(directory: Path) -> bool:
    """Say whether a directory looks like one."""
    return (directory / "final.pt").is_file() and (directory / "global_cmvn").is_file()


def read_speech_directory(
    directory: Path, modules: Collection[str] = ()
) -> tuple[dict[str, Tensor], dict[str, Any], list[str]]:
    """Return tensors by their names in ``final.pt``, the settings of ``train.yaml``, and notes.

    The statistics of ``global_cmvn`` are used where ``final.pt`` holds none. They are read only
    where ``modules`` has the encoder, or names nothing.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    tensors = read_pickle(directory / "final.pt")
    settings = read_train_yaml(directory)
    notes: list[str] = []
    if modules and "audio_encoder" not in modules:
        return tensors, settings, notes
    statistics = dict(zip(_STATISTICS, read_cmvn(directory / "global_cmvn"), strict=True))
    if missing := [name for name in _STATISTICS if name not in tensors]:
        tensors = {**tensors, **{name: statistics[name] for name in missing}}
        notes.append("the statistics of the features are those of global_cmvn")
    elif any(
        tensors[name].shape != statistics[name].shape
        # Rough: the file has its sums in decimal, and final.pt float32 that was computed from them
        or not torch.allclose(tensors[name].float(), statistics[name].float(), rtol=1e-3, atol=1e-5)
        for name in _STATISTICS
    ):
        notes.append("global_cmvn differs from the statistics in final.pt, which are used")
    return tensors, settings, notes


def read_train_yaml(directory: Path) -> dict[str, Any]:
    """Return the settings of a speech encoder's directory.

    Raises:
        CheckpointError: the file is missing, damaged, or no table of settings.
    """
    found = read_settings(directory / FILE)
    if not isinstance(found, dict):
        raise CheckpointError(
            "is not a mapping of settings", code="VT-WEIGHTS-055", where=str(directory / FILE)
        )
    return found


def read_cmvn(path: Path) -> tuple[Tensor, Tensor]:
    """Return mean and inverse standard deviation (bins,) of a statistics file, as float32.

    Two forms are read: JSON with the sums ``mean_stat`` and ``var_stat`` and their ``frame_num``,
    and Kaldi's text form, a matrix of two rows: the sums with the count behind them, the sums of
    squares with a zero behind them.

    Raises:
        CheckpointError: it is of neither form, or the numbers cannot be statistics.
    """
    text = read_text(path).strip()
    try:
        if text.startswith("{"):
            values = json.loads(text)
            sums, squares, count = (
                _numbers(values["mean_stat"]),
                _numbers(values["var_stat"]),
                values["frame_num"],
            )
        else:
            words = text.removeprefix("[").removesuffix("]").split()
            if len(words) < 4 or len(words) % 2 or not text.startswith("["):
                raise ValueError
            numbers, bins = _numbers(words), len(words) // 2 - 1
            # bins sums, the count, bins sums of squares, and a zero
            sums, count, squares = numbers[:bins], numbers[bins], numbers[bins + 1 : -1]
        count = float(count)
        if not sums or len(sums) != len(squares) or not count > 0 or not math.isfinite(count):
            raise ValueError
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise CheckpointError(
            "holds no feature statistics, neither as JSON nor as Kaldi text",
            code="VT-WEIGHTS-053",
            where=str(path),
            remedy="copy the file again",
        ) from error
    # float64: the variance is a small difference of two large numbers
    mean = torch.tensor(sums, dtype=torch.float64) / count
    variance = torch.tensor(squares, dtype=torch.float64) / count - mean**2
    return mean.float(), variance.clamp(min=_VARIANCE_FLOOR).rsqrt().float()


def write_cmvn(path: Path, mean: Tensor, istd: Tensor) -> None:
    """Write mean and inverse standard deviation (bins,) as JSON, as of one frame."""
    mean, istd = mean.double(), istd.double()
    squares = istd.square().reciprocal() + mean.square()
    content = {"mean_stat": mean.tolist(), "var_stat": squares.tolist(), "frame_num": 1}
    path.write_text(json.dumps(content), encoding="utf-8")


def _numbers(values: Sequence[Any]) -> list[float]:
    numbers = [float(value) for value in values]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("not finite")
    return numbers
