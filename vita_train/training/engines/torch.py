"""The plain engine: one process, or DistributedDataParallel over gloo or NCCL.

Its state is whole on rank 0, so that it can be loaded on any number of ranks.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from vita_train.errors import CheckpointError
from vita_train.training.engines.base import (
    EngineContext,
    State,
    cast_parameters,
    detached,
    fill_gradients,
    groups_of,
    load_trained_state,
    norms_by_owner,
    owners,
    phase_parameters,
    set_rates,
    trained_children,
    trained_state,
)
from vita_train.training.objectives.base import LossOutput, Objective
from vita_train.training.optim.factory import build_optimizer
from vita_train.training.optim.loss_scale import LossScale

_FILE = "state.pt"
_FORMAT = "vita-train/torch-state/v1"


class TorchEngine:
    """Float32 master weights; with bfloat16 or float16 compute runs under autocast and frozen
    modules are stored in that type. Float16 has a dynamic loss scale."""

    reads_own_files = False  # rank 0 writes all there is

    def __init__(self, objective: Objective, context: EngineContext) -> None:
        self.objective = objective
        self.world = context.world
        self.max_grad_norm = context.spec.optim.max_grad_norm
        self.dtype = context.dtype
        cast_parameters(objective, frozen=self.dtype, trained=torch.float32)
        self._parameters = {phase: phase_parameters(objective, phase) for phase in objective.phases}
        self._owners = {
            phase: owners(objective, self._parameters[phase]) for phase in objective.phases
        }
        self._optimizers = {phase: self._optimizer(context, phase) for phase in objective.phases}
        self._model: torch.nn.Module = objective
        if self.world.size > 1:
            # A module that no sample of a global batch reaches leaves its parameters unused on all
            # ranks.
            # Views into the buckets save a second copy of all gradients
            self._model = DistributedDataParallel(
                objective, find_unused_parameters=True, gradient_as_bucket_view=True
            )
        self._norms: dict[str, Tensor] = {}
        self._scale = LossScale(dynamic=self.dtype is torch.float16)

    def _optimizer(self, context: EngineContext, phase: str) -> torch.optim.Optimizer:
        groups = groups_of(self.objective, context.spec, phase)
        return build_optimizer(self.objective, groups, context.spec.optim)

    def forward_backward(self, batch: Any, phase: str, scale: float, *, last: bool) -> LossOutput:
        # The other phase's modules pass gradients on but must not gather any
        self._release(phase)
        model = self._model
        waiting: AbstractContextManager[None] = nullcontext()
        if isinstance(model, DistributedDataParallel) and not last:
            waiting = model.no_sync()
        with waiting:
            with self._autocast():
                output: LossOutput = self._model(batch, phase)
            # DDP averages over ranks; the product of both factors is a sum over ranks.
            (output.loss_sum * (scale * self.world.size * self._scale.value)).backward()
        return detached(output)

    def evaluate(self, batch: Any) -> LossOutput:
        self.objective.eval()
        with torch.no_grad(), self._autocast():
            output: LossOutput = self.objective(batch)
        self.objective.train()
        return output

    def step(self, phase: str, factor: float) -> Tensor | float:
        parameters = self._parameters[phase]
        fill_gradients(parameters)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        # Unscaled before the norm is taken, so that clipping sees what float32 would
        if self._scale.dynamic:
            torch._foreach_mul_(gradients, 1 / self._scale.value)
        norms = torch.stack(torch._foreach_norm(gradients))
        total = torch.linalg.vector_norm(norms)
        self._scale.update(finite=bool(torch.isfinite(total)))
        if torch.isfinite(total):
            if self.max_grad_norm > 0:
                # The factor of torch's clip_grad_norm_
                torch._foreach_mul_(gradients, (self.max_grad_norm / (total + 1e-6)).clamp(max=1.0))
            optimizer = self._optimizers[phase]
            set_rates(optimizer.param_groups, factor)
            optimizer.step()
        # Of all, not of the phase alone: the discriminators' phase leaves nothing for the next one
        for parameter in self.objective.parameters():
            parameter.grad = None
        self._release(None)
        self._norms[phase] = norms
        return total

    def _release(self, phase: str | None) -> None:
        """Let only the phase's parameters require gradients; None lets all of them that train."""
        if len(self.objective.phases) == 1:
            return
        chosen = None if phase is None else {id(parameter) for parameter in self._parameters[phase]}
        for parameters in self._parameters.values():
            for parameter in parameters:
                parameter.requires_grad_(chosen is None or id(parameter) in chosen)

    def _autocast(self) -> Any:
        return torch.autocast(
            self.world.device.type,
            torch.float16 if self.dtype is torch.float16 else torch.bfloat16,
            enabled=self.dtype is not torch.float32,
        )

    def spare_skips(self) -> int:
        return self._scale.halvings

    def norms(self) -> dict[str, float]:
        merged: dict[str, float] = {}
        for phase, norms in self._norms.items():
            merged.update(norms_by_owner(self._owners[phase], norms.tolist()))
        return merged

    def save(self, directory: Path) -> None:
        if self.world.rank:
            return
        children = {
            name: trained_state(child) for name, child in trained_children(self.objective).items()
        }
        optimizers = {
            phase: optimizer.state_dict() for phase, optimizer in self._optimizers.items()
        }
        torch.save(
            {
                "format": _FORMAT,
                "children": children,
                "optimizers": optimizers,
                **({"loss_scale": self._scale.state()} if self._scale.dynamic else {}),
            },
            directory / _FILE,
        )

    def load(self, directory: Path) -> None:
        path = directory / _FILE
        if not path.exists():
            raise CheckpointError(
                "the checkpoint was not written by engine torch",
                code="VT-WEIGHTS-015",
                where=str(directory),
                remedy="continue with the engine that wrote it, or start the stage under a new run "
                "name",
            )
        # weights_only: a checkpoint is unpickled only as tensors and plain values
        state = torch.load(path, map_location=self.world.device, weights_only=True)
        for name, child in trained_children(self.objective).items():
            load_trained_state(child, state["children"][name])
        for phase, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state["optimizers"][phase])
        if self._scale.dynamic and "loss_scale" in state:
            self._scale.load(state["loss_scale"])

    def gather(self) -> State | None:
        if self.world.rank:
            return None
        children = trained_children(self.objective)
        return {
            name: {key: value.detach().cpu() for key, value in trained_state(child).items()}
            for name, child in children.items()
        }

    def close(self) -> None:
        self._model = self.objective
