"""Modules to safetensors files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from vita_train.storage.digest import digest_of
from vita_train.weights.stream import tensor_in_memory, write_tensors

#: Bytes of tensors above which a module is split over files.
SHARD_BYTES = 5_000_000_000


def save_modules(
    modules: nn.ModuleDict | Mapping[str, nn.Module | Mapping[str, Tensor]],
    directory: Path,
    *,
    shard_bytes: int = SHARD_BYTES,
) -> dict[str, tuple[Path, ...]]:
    """Write each module, or its state dict, and return its files.

    One file ``<module>.safetensors``; above ``shard_bytes``,
    ``<module>-00001-of-00003.safetensors`` and so on. Of tensors that share their memory (tied
    embeddings) the first is written. Files get their name when they are whole; the same tensors
    make the same bytes.

    Raises:
        UserError, StorageError: a file cannot be written.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    written: dict[str, tuple[Path, ...]] = {}
    for name, module in modules.items():
        state = module.state_dict() if isinstance(module, nn.Module) else module
        tensors = without_aliases(state)
        shards = split_by_size({key: tensor.nbytes for key, tensor in tensors.items()}, shard_bytes)
        digest = layout_digest(tensors)
        paths = []
        for index, shard in enumerate(shards):
            path = directory / shard_name(name, index, len(shards))
            write_tensors(
                path,
                {key: tensor_in_memory(tensors[key]) for key in shard},
                {"format": "pt", "module": name, "layout": digest},
            )
            paths.append(path)
        written[name] = tuple(paths)
    return written


def without_aliases(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a state dict, leaving out those that are the same memory as one
    before."""
    kept: dict[str, Tensor] = {}
    seen: set[tuple[int, torch.Size]] = set()
    for name, tensor in state.items():
        # The shape too: a view of the first rows of a matrix begins at the same place
        place = (tensor.data_ptr(), tensor.shape)
        # Neither has memory: all would be the same tensor at address 0
        if tensor.numel() and tensor.device.type != "meta":
            if place in seen:
                continue
            seen.add(place)
        kept[name] = tensor
    return kept


def layout_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the digest of names, shapes and types: equal for modules of one specification."""
    return digest_of({name: [str(tensor.dtype), *tensor.shape] for name, tensor in tensors.items()})


def split_by_size(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Return names in order, in groups whose sizes sum to at most ``limit`` where no single one is
    above it."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if groups[-1] and filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return groups


def shard_name(stem: str, index: int, count: int) -> str:
    """Return the file name of one of ``count`` shards, as transformers names them."""
    suffix = "" if count == 1 else f"-{index + 1:05d}-of-{count:05d}"
    return f"{stem}{suffix}.safetensors"
