"""The directory that the public trainer leaves with LoRA: PEFT's adapter, and what trained in full
beside it in ``non_lora_trainables.bin``.

The adapter is merged while tensors pass by: one matrix of the base is in memory at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from vita_train.errors import CheckpointError, UserError
from vita_train.weights.adapters import CONFIG_NAME, WEIGHTS_NAME, read_config
from vita_train.weights.formats.import_report import shown
from vita_train.weights.formats.shards import read_json, read_shards
from vita_train.weights.pickles import read_pickle
from vita_train.weights.stream import DTYPES, StoredTensor, tensor_in_memory, tensors_in

_PICKLED_NAME = "adapter_model.bin"
_OTHERS_NAME = "non_lora_trainables.bin"


class LoraDirectory(NamedTuple):
    """A base with its adapter merged and the modules beside it."""

    tensors: dict[str, StoredTensor]
    """By the base's names; what trained in full stands in place of the base's own."""
    config: dict[str, Any]
    """The base's config.json."""
    base_names: list[str]
    notes: list[str]
    problems: list[str]


def is_lora_directory(directory: Path) -> bool:
    """Say whether a directory looks like one."""
    return (directory / CONFIG_NAME).is_file()


def read_lora_directory(directory: Path, base: Path | None = None) -> LoraDirectory:
    """List the tensors of a base with the adapter of a directory merged into them; no data are
    read.

    Args:
        directory: with ``adapter_config.json``.
        base: directory of the weights it was trained on; the one that the configuration names when
            not given.

    Raises:
        UserError: the base is not on this machine.
        CheckpointError: a file is missing or damaged, or the adapter is of a kind that is not
            merged here.
    """
    settings = read_config(directory / CONFIG_NAME)
    stated = base or read_json(directory / CONFIG_NAME).get("base_model_name_or_path")
    named = Path(str(stated)).expanduser()
    if not stated or not named.is_dir():
        raise UserError(
            "the weights that the adapter belongs to are not on this machine",
            code="VT-USE-120",
            where=shown(stated or directory),
            remedy="give their directory with --base",
        )
    stored, problems = read_shards(named), []
    merged, pairs = dict(stored), 0
    factors, others = _adapter(directory)
    for name, (a, b) in factors.items():
        weight, scale = stored.get(name), settings.lora_alpha / settings.r
        if weight is None:
            problems.append(f"the adapter of {shown(name)} belongs to no tensor of the base")
        elif a is None or b is None:
            problems.append(
                f"the adapter of {shown(name)} has no matrix {'A' if a is None else 'B'}"
            )
        elif (*b.info.shape, *a.info.shape) != (
            weight.info.shape[0],
            settings.r,
            settings.r,
            *weight.info.shape[1:],
        ):
            problems.append(
                f"the adapter of {shown(name)} is {b.info.shape} times {a.info.shape}, of rank "
                f"{settings.r} for {weight.info.shape}"
            )
        else:
            merged[name], pairs = _merged(weight, a, b, scale), pairs + 1
    notes = [
        f"an adapter of rank {settings.r} is merged into {pairs} matrices, {len(others)} tensors "
        f"trained in full"
    ]
    config = read_json(named / "config.json") if (named / "config.json").is_file() else {}
    return LoraDirectory({**merged, **others}, config, list(stored), notes, problems)


def _adapter(
    directory: Path,
) -> tuple[dict[str, list[StoredTensor | None]], dict[str, StoredTensor]]:
    """Return the matrices A and B by the name of the tensor they belong to, and all tensors that
    are none of those."""
    weights, pickled = directory / WEIGHTS_NAME, directory / _PICKLED_NAME
    if not weights.is_file() and not pickled.is_file():
        raise CheckpointError(
            f"holds neither {WEIGHTS_NAME} nor {_PICKLED_NAME}",
            code="VT-WEIGHTS-041",
            where=str(directory),
            remedy="copy the adapter again",
        )
    found = tensors_in(weights) if weights.is_file() else _listed(pickled)
    if (directory / _OTHERS_NAME).is_file():
        found |= _listed(directory / _OTHERS_NAME)
    factors: dict[str, list[StoredTensor | None]] = {}
    others: dict[str, StoredTensor] = {}
    for name, tensor in found.items():
        # PEFT puts base_layer into the names of what it wraps; the base has never heard of it
        plain = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
        # A name of the adapter may stand between, as in a state dict; PEFT's own files leave it out
        if match := re.fullmatch(r"(.+)\.lora_([AB])(?:\.\w+)?\.weight", plain):
            factors.setdefault(f"{match[1]}.weight", [None, None])["AB".index(match[2])] = tensor
        else:
            others[plain] = tensor
    return factors, others


def _listed(path: Path) -> dict[str, StoredTensor]:
    return {name: tensor_in_memory(tensor) for name, tensor in read_pickle(path).items()}


def _merged(weight: StoredTensor, a: StoredTensor, b: StoredTensor, scale: float) -> StoredTensor:
    """Return W + alpha / rank * B A, computed in float32 when it is read and rounded to the type of
    W."""

    def read(start: int, length: int) -> Iterator[bytes | memoryview]:
        whole = weight.load().float() + scale * (b.load().float() @ a.load().float())
        yield from tensor_in_memory(whole.to(DTYPES[weight.info.dtype])).read(start, length)

    return StoredTensor(weight.info, read)
