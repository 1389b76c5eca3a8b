"""What every engine does with an objective.

An engine receives sums, never means: the loop divides by the supervised positions of the global
batch through ``scale``, and the engine makes sure that gradients are *added* over ranks and
micro-batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vita_train.recipe.schema import Recipe
from vita_train.recipe.stage import StageSpec
from vita_train.training.freeze import param_groups
from vita_train.training.objectives.base import LossOutput, Objective
from vita_train.training.parallel.distributed import World

State = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class EngineContext:
    """What an engine is built from, beside the objective."""

    spec: StageSpec
    world: World
    dtype: torch.dtype
    """Compute type. Master weights and optimizer state are float32."""


class Engine(Protocol):
    """Runs forward, backward and step, and knows how its state is saved."""

    objective: Objective
    reads_own_files: bool
    """Each rank reads back what it wrote and what rank 0 did, where as many ranks wrote it."""

    def forward_backward(self, batch: Any, phase: str, scale: float, *, last: bool) -> LossOutput:
        """Run one micro-batch (already on the device) and add ``scale`` x gradient of its loss sum.

        Args:
            scale: one over the supervised positions of the global batch.
            last: the last micro-batch of this phase; ranks may wait with their exchange until then.

        Returns:
            The objective's output, detached.
        """
        ...

    def evaluate(self, batch: Any) -> LossOutput:
        """Return the loss of a batch in eval mode, without gradients, then go back to train
        mode."""
        ...

    def step(self, phase: str, factor: float) -> Tensor | float:
        """Clip, update the phase's parameters at ``factor`` x their peak rates, drop gradients.

        Where the norm is not finite nothing is updated, neither parameters nor optimizer state.

        Returns:
            The global gradient norm before clipping, the same on every rank.
        """
        ...

    def spare_skips(self) -> int:
        """Return how many steps in a row, beyond the usual number, may be left out for gradients
        that are not finite: those in which a loss scale is still too large."""
        ...

    def norms(self) -> dict[str, float]:
        """Return the gradient norm per module of the last step; empty if the engine does not know
        them."""
        ...

    def save(self, directory: Path) -> None:
        """Write the resumable state into an empty directory; every rank calls it and writes its own
        part."""
        ...

    def load(self, directory: Path) -> None:
        """Read a state back.

        Raises:
            CheckpointError: the state was written by another engine, or by another number of ranks
                than this engine can take it from.
        """
        ...

    def gather(self) -> State | None:
        """Return the full weights (module name to state dict, on the CPU) on rank 0, None
        elsewhere.

        Only modules that train, with their buffers. Every rank must call it.
        """
        ...

    def close(self) -> None:
        """Release what would keep the process from ending."""
        ...


def groups_of(objective: Objective, spec: StageSpec, phase: str) -> list[dict[str, Any]]:
    """Return the optimizer groups of one phase."""
    # With one phase all that trains is in it, and the objective need not sort it
    only = None if len(objective.phases) == 1 else objective.train_parameters(phase)
    return param_groups(objective, spec.trainable, spec.optim.weight_decay, only)


def return_tuples(objective: Objective) -> None:
    """Make the objective's forward return (loss_sum, count, metrics) instead of a LossOutput.

    Sharding engines hang their backward hooks on the tensors they find in a module's output, and
    they look into tuples and dictionaries only. Without the hooks a parameter read outside its own
    module (the output matrix, by the chunked loss) would be gone when backward computes a chunk
    again.
    """
    inner = objective.forward

    def forward(batch: Any, phase: str = "main") -> tuple[Tensor, float, dict[str, Any]]:
        output = inner(batch, phase)
        return output.loss_sum, output.count, output.metrics

    objective.forward = forward  # type: ignore[method-assign, assignment]


def set_rates(groups: list[dict[str, Any]], factor: float) -> None:
    """Set every group's rate to ``factor`` x its peak."""
    for group in groups:
        group["lr"] = group["peak_lr"] * factor


def fill_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give trained parameters that no sample of the global batch reached a gradient of zero.

    The optimizer then treats them alike under every engine: their momentum goes on, as with zero
    gradients.
    """
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def detached(output: LossOutput) -> LossOutput:
    """Return the output without its graph."""
    metrics = {
        name: (_plain(total), _plain(count)) for name, (total, count) in output.metrics.items()
    }
    return LossOutput(output.loss_sum.detach(), output.count, metrics)


def _plain(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def owners(objective: Objective, parameters: Iterable[nn.Parameter]) -> list[str]:
    """Return, for each parameter, the name of the child it belongs to."""
    child_of = {
        id(parameter): name
        for name, child in objective.named_children()
        for parameter in child.parameters()
    }
    return [child_of[id(parameter)] for parameter in parameters]


def norms_by_owner(names: list[str], norms: list[float]) -> dict[str, float]:
    """Return the norm per child from the norms of its parameters' gradients."""
    squares: dict[str, float] = {}
    for name, norm in zip(names, norms, strict=True):
        squares[name] = squares.get(name, 0.0) + norm * norm
    return {name: square**0.5 for name, square in squares.items()}


def parameter_types(
    objective: Objective, frozen: torch.dtype, trained: torch.dtype
) -> dict[nn.Parameter, torch.dtype]:
    """Return the type that each parameter is held in."""
    return {
        parameter: trained if parameter.requires_grad or name in objective.keep_float32 else frozen
        for name, child in objective.named_children()
        for parameter in child.parameters()
        if parameter.is_floating_point()  # quantised weights are not
    }


def cast_parameters(objective: Objective, frozen: torch.dtype, trained: torch.dtype) -> None:
    """Store frozen and trained parameters in their types; buffers (statistics, tables) keep their
    own."""
    for parameter, held in parameter_types(objective, frozen, trained).items():
        parameter.data = parameter.data.to(held)


def compute_dtype(recipe: Recipe, spec: StageSpec) -> torch.dtype:
    """Return the type that a stage computes in: its engine's, or the recipe's."""
    dtype: torch.dtype = getattr(torch, spec.engine.dtype or recipe.model.dtype)
    return dtype


def phase_parameters(objective: Objective, phase: str) -> list[nn.Parameter]:
    """Return the parameters that a phase updates."""
    source = (
        objective.parameters() if len(objective.phases) == 1 else objective.train_parameters(phase)
    )
    return [parameter for parameter in source if parameter.requires_grad]


def trained_children(objective: Objective) -> dict[str, nn.Module]:
    """Return the children that are not frozen."""
    return {
        name: child for name, child in objective.named_children() if name not in objective.frozen
    }


def not_finite(objective: Objective) -> list[str]:
    """Return the children that train and hold something not finite, as far as this rank has it.

    Looked at is what a checkpoint keeps: parameters that train, and buffers (codebooks,
    statistics).
    """
    return [
        name
        for name, child in trained_children(objective).items()
        if not all(bool(torch.isfinite(_held(tensor)).all()) for tensor in _kept(child))
    ]


def _kept(child: nn.Module) -> Iterator[Tensor]:
    yield from (parameter for parameter in child.parameters() if parameter.requires_grad)
    for module in child.modules():
        for name, buffer in module.named_buffers(recurse=False):
            # torch has no public way to ask whether a buffer is saved
            if name not in module._non_persistent_buffers_set and buffer.is_floating_point():
                yield buffer


def _held(parameter: Tensor) -> Tensor:
    """Return the part of a parameter that this rank holds: all of it, or its shard."""
    shard = getattr(parameter, "ds_tensor", parameter)  # ZeRO-3
    # A DTensor of FSDP2, asked by its method: the class exists only where torch is distributed.
    held: Tensor = shard.to_local() if hasattr(shard, "to_local") else shard
    return held.detach()


def trained_state(child: nn.Module) -> dict[str, Tensor]:
    """Return what a checkpoint must hold of a child: parameters that train, and buffers.

    Of a module with adapters that is the adapter alone, without the matrices below it and without
    what quantised layers add to a state dict.
    """
    kept = kept_names(child)
    return {name: tensor for name, tensor in child.state_dict().items() if name in kept}


def kept_names(child: nn.Module) -> set[str]:
    """Return the names of a child's parameters that train, tied ones under each of their names, and
    of its buffers."""
    kept = {
        name
        for name, parameter in child.named_parameters(remove_duplicate=False)
        if parameter.requires_grad
    }
    return kept | {name for name, _ in child.named_buffers()}


def load_trained_state(child: nn.Module, state: dict[str, Tensor]) -> None:
    """Read back what `trained_state` returned.

    Raises:
        RuntimeError: the names are others.
    """
    # strict would ask for frozen parameters, which no checkpoint holds
    missing, unexpected = child.load_state_dict(state, strict=False)
    if unexpected or set(missing) & set(trained_state(child)):
        raise RuntimeError(f"the state does not fit the module: {[*unexpected, *missing][:5]}")
