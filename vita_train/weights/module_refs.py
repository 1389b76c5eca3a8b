"""Modules from the references of a manifest: whole weights, or weights with the adapters that
stages trained on them.

Who loads a model this way need not know about adapters: they are merged in float32 before anything
else is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from vita_train.models.build import build_modules, cast_parameters
from vita_train.models.lora import merge_adapters
from vita_train.recipe.model import ModelSpec
from vita_train.runs.manifest import ModuleRef
from vita_train.storage.cache import fetch_file
from vita_train.weights.adapters import adapted_digest, attach_adapter, weights_digest
from vita_train.weights.load import load_modules


def load_refs(
    spec: ModelSpec,
    refs: Mapping[str, ModuleRef],
    *,
    ctc_vocab_size: int = 0,
    dtype: torch.dtype = torch.float32,
    endpoint: str | None = None,
    mapped: bool = False,
) -> nn.ModuleDict:
    """Build modules and fill them with the weights that references name, adapters merged.

    Args:
        spec: shapes, and the pretrained sources that adapters may belong to.
        refs: module to reference; the result has them in this order.
        ctc_vocab_size: outputs of the recogniser's head, where it is named.
        dtype: type of the parameters. Adapters are merged in float32 first.
        endpoint: of the S3 store, when it is not AWS.
        mapped: leave weights without adapters in their files, as `load_modules` does.

    Raises:
        CheckpointError: weights are missing or do not fit, or an adapter belongs to other weights.
    """
    bases = {name: base_and_adapters(ref) for name, ref in refs.items()}
    stored = {name: base for name, (base, _) in bases.items() if isinstance(base, ModuleRef)}
    adapted = {name for name, (_, adapters) in bases.items() if adapters}
    modules = build_modules(
        spec,
        [name for name in refs if name not in adapted],
        ctc_vocab_size=ctc_vocab_size,
        dtype=dtype,
        empty=True,
    )
    # Whatever an adapter is merged into is float32 first, and read from a source where nothing
    # stored it
    for name, module in build_modules(spec, adapted & set(stored), empty=True).items():
        modules[name] = module
    for name, module in build_modules(spec, adapted - set(stored)).items():
        modules[name] = module
    load_modules(
        {name: modules[name] for name in stored},
        {name: fetched(ref, endpoint) for name, ref in stored.items()},
        mapped=mapped,
    )
    for name in sorted(adapted):
        module, digest = modules[name], weights_digest(modules[name])
        for adapter in bases[name][1]:
            files = fetched(adapter, endpoint)
            attach_adapter(module, files, digest)
            merge_adapters(module, where=str(files[-1]))
            # The next adapter names this one and its base, not a digest of the sum, which machines
            # round apart
            digest = adapted_digest(files)
        cast_parameters(nn.ModuleDict({name: module}), dtype)
    return nn.ModuleDict({name: modules[name] for name in refs})


def base_and_adapters(ref: ModuleRef) -> tuple[ModuleRef | Literal["source"], list[ModuleRef]]:
    """Return the whole weights that a reference rests on, and the adapters over them, oldest
    first."""
    adapters: list[ModuleRef] = []
    base: ModuleRef | Literal["source"] = ref
    while isinstance(base, ModuleRef) and base.base is not None:
        adapters.append(base)
        base = base.base
    return base, adapters[::-1]


def digest_under(ref: ModuleRef | None, module: nn.Module, *, endpoint: str | None = None) -> str:
    """Return the digest that an adapter trained on a module's weights names as its base.

    Args:
        ref: where the weights come from; None for a pretrained source.
        module: the weights, as `load_refs` gave them.
        endpoint: of the S3 store, when it is not AWS.
    """
    if ref is not None and ref.base is not None:
        return adapted_digest(fetched(ref, endpoint))
    return weights_digest(module)


def fetched(ref: ModuleRef, endpoint: str | None = None) -> tuple[Path, ...]:
    """Return a reference's own files on this machine, checked."""
    return tuple(fetch_file(file, endpoint=endpoint) for file in ref.files)
