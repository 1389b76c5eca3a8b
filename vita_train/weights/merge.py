"""A stage's adapters merged for good: whole weights that other tools read, compared with what was
trained.

::

    llm/                 as transformers saves it: for ``model.llm.source``, or for any other tool
    <module>.safetensors other modules that the stage trained
    merge.json           stage, base of each adapter, largest difference of the logits
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vita_train.errors import CheckpointError, UserError
from vita_train.models.build import build_modules, cast_parameters
from vita_train.models.lora import merge_adapters
from vita_train.recipe.aliases import stage_name
from vita_train.recipe.schema import Recipe
from vita_train.runs.manifest import Manifest, ModuleRef
from vita_train.runs.run import Run
from vita_train.weights.adapters import attach_adapter, base_of
from vita_train.weights.compare import probe_logits
from vita_train.weights.module_refs import digest_under, fetched, load_refs
from vita_train.weights.save import save_modules
from vita_train.weights.staging import atomic_directory, write_json

FORMAT = "vita-train/merge/v1"
_MANIFEST = "merge.json"
#: Most that float32 logits may change by merging, as a share of the largest of them.
BOUND = 1e-4
#: Modules that a probe passes through.
_PROBED = ("llm", "vision", "projector", "audio_encoder", "audio_adapter")


@dataclass(frozen=True)
class Merged:
    """What merging changed."""

    stage: str
    largest_logit: float
    """Of the probe, adapters beside the weights, float32."""
    difference: float
    """Largest change of a logit by merging in float32."""
    rounded: float
    """Largest change of a logit by merging and storing in the recipe's type; the same as above for
    float32."""


def merge_stage(run: Run, out: Path, *, stage: str = "") -> Merged:
    """Merge the adapters of one stage into their bases and write whole weights to a new directory.

    Args:
        run: of which.
        out: directory to make.
        stage: stage id or alias; empty takes the last one that has trained adapters.

    Raises:
        UserError: ``out`` exists, or no such stage has trained adapters.
        CheckpointError: an adapter belongs to other weights, or merging changes the logits by more
            than `BOUND`.
    """
    if out.exists():
        raise UserError(
            "exists already", code="VT-USE-126", where=str(out), remedy="choose another directory"
        )
    recipe, manifest = run.recipe, adapted_stage(run, stage)
    own = own_modules(manifest)
    adapters = {
        name: fetched(ref, recipe.storage.endpoint)
        for name, ref in own.items()
        if ref.base is not None
    }
    modules, before, difference = merged_alike(recipe, manifest, adapters)
    dtype, largest = getattr(torch, recipe.model.dtype), float(before.abs().max())
    # There and back: the probe sees rounded weights, and still computes in float32
    cast_parameters(cast_parameters(modules, dtype), torch.float32)
    merged = Merged(
        manifest.stage, largest, difference, float((probe_logits(modules) - before).abs().max())
    )
    _write(
        cast_parameters(modules, dtype),
        own,
        merged,
        recipe,
        out,
        {name: base_of(files) for name, files in adapters.items()},
    )
    return merged


def own_modules(manifest: Manifest) -> dict[str, ModuleRef]:
    """Return the modules that a stage trained itself."""
    return {name: ref for name, ref in manifest.modules.items() if ref.stage == manifest.stage}


def merged_alike(
    recipe: Recipe, manifest: Manifest, adapters: Mapping[str, Sequence[Path]]
) -> tuple[nn.ModuleDict, Tensor, float]:
    """Put adapters beside their bases, ask a probe, merge them and ask again.

    Args:
        recipe: the run's recipe.
        manifest: of the stage that trained the adapters.
        adapters: configuration and weights of each.

    Returns:
        The merged modules in float32, the probe's logits (1, positions, V) before, and their
        largest change.

    Raises:
        CheckpointError: an adapter belongs to other weights, or merging changes the logits by more
            than `BOUND`.
    """
    modules = _unmerged(recipe, manifest, adapters)
    before = probe_logits(modules)
    for name in adapters:
        merge_adapters(modules[name], where=f"stage {manifest.stage}, {name}")
    difference, largest = (
        float((probe_logits(modules) - before).abs().max()),
        float(before.abs().max()),
    )
    # Not `difference > ...`: that is false for NaN
    if not difference <= BOUND * largest:
        raise CheckpointError(
            f"merging changes logits by up to {difference:.3g}, more than {BOUND:g} of the largest "
            f"({largest:.3g})",
            code="VT-WEIGHTS-064",
            where=f"stage {manifest.stage}",
            remedy="nothing was written; use the adapter beside its base",
        )
    return modules, before, difference


def adapted_stage(run: Run, stage: str) -> Manifest:
    """Return the manifest of a stage that trained adapters; of the last one if none is named.

    Raises:
        UserError: there is none.
    """
    stages = run.recipe.stages
    names = [stage_name(stage, stages)] if stage else list(stages)
    manifests = [manifest for name in names if (manifest := run.final(name))]
    adapted = [
        manifest
        for manifest in manifests
        if any(
            ref.stage == manifest.stage and ref.base is not None
            for ref in manifest.modules.values()
        )
    ]
    if not adapted:
        which = f"stage {names[0]}" if stage else "no stage of this run"
        raise UserError(
            f"{which} has trained {'no ' if stage else ''}adapters",
            code="VT-USE-127",
            where=run.uri(),
            remedy="name a finished stage whose recipe has lora",
        )
    return adapted[-1]


def _unmerged(
    recipe: Recipe, manifest: Manifest, adapters: Mapping[str, Sequence[Path]]
) -> nn.ModuleDict:
    """Return the model of a stage in float32 and eval mode, its own adapters beside the weights."""
    endpoint = recipe.storage.endpoint
    refs = {
        name: ref.base if name in adapters else ref
        for name, ref in manifest.modules.items()
        if name in _PROBED
    }
    stored = {name: ref for name, ref in refs.items() if isinstance(ref, ModuleRef)}
    loaded = {
        **load_refs(recipe.model, stored, endpoint=endpoint),
        **build_modules(
            recipe.model, [name for name in recipe.model.sources if name not in stored]
        ),
    }
    modules = nn.ModuleDict({name: loaded[name] for name in _PROBED if name in loaded}).eval()
    for name, files in adapters.items():
        attach_adapter(
            modules[name], files, digest_under(stored.get(name), modules[name], endpoint=endpoint)
        )
    return modules


def _write(
    modules: nn.ModuleDict,
    own: Mapping[str, ModuleRef],
    merged: Merged,
    recipe: Recipe,
    out: Path,
    bases: Mapping[str, str],
) -> None:
    with atomic_directory(out, _MANIFEST, "merge") as staging_dir:
        if "llm" in own:
            llm: Any = modules["llm"]
            llm.save_pretrained(staging_dir / "llm")
        save_modules({name: modules[name] for name in own if name != "llm"}, staging_dir)
        manifest = {
            "format": FORMAT,
            "recipe": recipe.name,
            "bases": dict(bases),
            "bound": BOUND,
            **asdict(merged),
        }
        write_json(staging_dir / _MANIFEST, manifest)
