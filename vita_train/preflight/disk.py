"""What a run will write: a local store that outgrows its disk is told before the first step, not in
the last night."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from vita_train.recipe.schema import Recipe
from vita_train.recipe.stage import StageSpec

#: AdamW's two moments and the float32 weights, of each trained parameter.
_STATE_BYTES = 12


@dataclass(frozen=True)
class DiskPlan:
    """Bytes that the stages still to be trained leave in the store, and the most that one is
    writing at a time."""

    checkpoints: int
    """Resumable checkpoints that stay: ``storage.keep_last`` of each stage and the best where it is
    measured on the way, or as many as it makes."""
    weights: int
    """Final weights of each stage, and the export."""
    in_flight: int
    """The largest checkpoint: a new one is whole before an old one goes."""

    features: int = 0
    """Features of audio that preparation stores."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.checkpoints + self.weights + self.in_flight + self.features


def plan_disk(
    recipe: Recipe,
    stages: Collection[str],
    trained: Mapping[str, int],
    parameters: int,
    *,
    exports: bool,
    features: int = 0,
) -> DiskPlan:
    """Add up what stages will write.

    Args:
        recipe: resolved.
        stages: those that are still to be trained.
        trained: parameters that each trains; of an adapter, its own.
        parameters: of the whole model.
        exports: the run writes an export too.
        features: bytes of features that preparation stores.
    """
    bytes_each = 4 if recipe.model.dtype == "float32" else 2
    # Weights of another type than the master copy stand beside it.
    each = _STATE_BYTES + (bytes_each if bytes_each < 4 else 0)
    sizes = {stage: trained[stage] * each for stage in stages}
    kept = sum(
        size * _kept(recipe.stages[stage], recipe.storage.keep_last)
        for stage, size in sizes.items()
    )
    finals = sum(trained[stage] for stage in stages) + (parameters if exports else 0)
    return DiskPlan(kept, finals * bytes_each, max(sizes.values(), default=0), features)


def _kept(spec: StageSpec, keep_last: int) -> int:
    """Return how many checkpoints of a stage stay."""
    keep_last += bool(spec.eval.interval)
    return (
        min(keep_last, math.ceil(spec.most_steps / spec.checkpoint_interval))
        if spec.most_steps
        else keep_last
    )
