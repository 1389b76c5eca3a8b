"""The directory of VITA's speech encoder: ``train.yaml``, ``global_cmvn`` and ``final.pt``."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from vita_train.errors import CheckpointError
from vita_train.weights.formats.import_report import shown
from vita_train.weights.formats.shards import read_text
from vita_train.weights.pickles import read_pickle

#: Least variance of a filterbank bin.
_VARIANCE_FLOOR = 1e-20
#: What our adapter computes, by the keys of ``model_conf`` in train.yaml.
_ADAPTER = {"adpter_type": "subsampling", "norm": "layer", "activation_func": "gelu"}
_STATISTICS = ("encoder.global_cmvn.mean", "encoder.global_cmvn.istd")


def is_speech_directory(directory: Path) -> bool:
    """Say whether a directory looks like one."""
    return (directory / "final.pt").is_file() and (directory / "global_cmvn").is_file()


def read_speech_directory(directory: Path) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Return tensors by their names in ``final.pt``, notes, and what is wrong with the settings.

    The statistics of ``global_cmvn`` are used where ``final.pt`` holds none.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    tensors = read_pickle(directory / "final.pt")
    settings = _settings(directory / "train.yaml")
    statistics = dict(zip(_STATISTICS, read_cmvn(directory / "global_cmvn"), strict=True))
    notes = []
    if missing := [name for name in _STATISTICS if name not in tensors]:
        tensors = {**tensors, **{name: statistics[name] for name in missing}}
        notes.append("the statistics of the features are those of global_cmvn")
    elif any(
        tensors[name].shape != statistics[name].shape
        or not torch.allclose(tensors[name].float(), statistics[name].float(), rtol=1e-3, atol=1e-5)
        for name in _STATISTICS
    ):
        notes.append("global_cmvn differs from the statistics in final.pt, which are used")
    return tensors, notes, _adapter_problems(settings.get("model_conf"))


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
    mean = torch.tensor(sums, dtype=torch.float64) / count
    variance = torch.tensor(squares, dtype=torch.float64) / count - mean**2
    return mean.float(), variance.clamp(min=_VARIANCE_FLOOR).rsqrt().float()


def _adapter_problems(settings: Any) -> list[str]:
    given = settings if isinstance(settings, dict) else {}
    problems = []
    for key, ours in _ADAPTER.items():
        theirs = given.get(key, ours)
        # Only words are shown: YAML can describe a value that is larger than any memory.
        if not isinstance(theirs, str) or theirs.lower() != ours:
            word = shown(theirs) if isinstance(theirs, str) else "no word"
            problems.append(
                f"model_conf.{key} is {word} in train.yaml, and this package has {ours} alone"
            )
    return problems


def _numbers(values: Sequence[Any]) -> list[float]:
    numbers = [float(value) for value in values]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("not finite")
    return numbers


def _settings(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise CheckpointError(
            "is not plain YAML", code="VT-WEIGHTS-054", where=str(path)
        ) from error
    if not isinstance(found, dict):
        raise CheckpointError(
            "is not a mapping of settings", code="VT-WEIGHTS-055", where=str(path)
        )
    return found
