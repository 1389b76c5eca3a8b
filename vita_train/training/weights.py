"""Modules with the weights a stage starts from, in the types its engine will hold them in."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import nn

from vita_train.models.build import build_modules
from vita_train.models.loading import check_finite
from vita_train.recipe.schema import Recipe
from vita_train.recipe.stage import StageSpec
from vita_train.training.inputs import Inputs
from vita_train.weights.module_refs import load_refs


def load_inputs(
    recipe: Recipe,
    inputs: Inputs,
    names: tuple[str, ...],
    *,
    ctc_vocab_size: int,
    dtypes: Mapping[str, torch.dtype] | None = None,
    mapped: bool = False,
) -> nn.ModuleDict:
    """Return modules with the newest weights: of an earlier stage, of the pretrained source, or
    freshly drawn.

    Args:
        recipe: of the run.
        inputs: where the weights of earlier stages lie.
        names: of the modules, in order.
        ctc_vocab_size: outputs of the recogniser's head, where it is named.
        dtypes: module to the type of its parameters; float32 for those that are not named.
        mapped: leave weights that are stored in that type in their files, which all processes of a
            node then share: they are read from disk once, and held once. For weights that go to a
            device next.

    Raises:
        CheckpointError: weights are missing, do not fit, or hold values that are not finite.
    """
    by_type: dict[torch.dtype, list[str]] = {}
    for name in names:
        by_type.setdefault((dtypes or {}).get(name, torch.float32), []).append(name)
    built: dict[str, nn.Module] = {}
    for dtype, chosen in by_type.items():
        known = {name: inputs.modules[name] for name in chosen if name in inputs.modules}
        fresh = [name for name in chosen if name not in known]
        loaded = load_refs(
            recipe.model,
            known,
            ctc_vocab_size=ctc_vocab_size,
            dtype=dtype,
            endpoint=recipe.storage.endpoint,
            mapped=mapped,
        )
        if mapped:  # loading looked at names and shapes alone
            for name, ref in known.items():
                check_finite(loaded[name], where=", ".join(file.uri for file in ref.files))
        built |= dict(loaded.items())
        built |= dict(
            build_modules(
                recipe.model, fresh, ctc_vocab_size=ctc_vocab_size, seed=recipe.seed, dtype=dtype
            ).items()
        )
    return nn.ModuleDict({name: built[name] for name in names})


def stage_dtypes(
    spec: StageSpec,
    names: Iterable[str],
    dtype: torch.dtype,
    keep_float32: Collection[str],
    *,
    stored: torch.dtype = torch.float32,
) -> dict[str, torch.dtype]:
    """Return the type in which each module of a stage is loaded: that in which its engine holds it,
    so that nothing wider is ever in memory.

    What is frozen is held in the compute type. What trains is held in float32, but by DeepSpeed,
    whose own float32 copy is made from the compute type, and by FSDP2, which makes float32 shards
    of what is stored, block by block. Adapters are merged and matrices quantised in float32.

    Args:
        spec: of the stage.
        names: its modules.
        dtype: compute type.
        keep_float32: modules that the objective computes with in float32.
        stored: type of the weights that stages hand on.
    """
    wide = {*keep_float32, *spec.adapted, *(("llm",) if spec.quantize is not None else ())}
    trained = {"deepspeed": dtype, "fsdp2": stored}.get(spec.engine.kind, torch.float32)
    held = {name: trained if name in spec.trainable else dtype for name in names}
    return {name: torch.float32 if name in wide else held[name] for name in names}
