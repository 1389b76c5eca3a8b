"""Muon for weight matrices beside AdamW for everything else, in one optimizer.

A matrix moves along its momentum with all singular values brought near one by a quintic
Newton-Schulz iteration (Jordan et al., "Muon: an optimizer for hidden layers in neural networks",
2024). The update is scaled by 0.2 * sqrt(max(rows, columns)), the root mean square of an AdamW
update (Liu et al., arXiv 2502.16982), so that the learning rates of a recipe serve both. Small
models reach the same loss in a fraction of the tokens.

torch.optim.Muon iterates in bfloat16, which processors without native bfloat16 emulate 10 to 50
times slower; here the iteration runs in float32 off the GPU, on all matrices of one shape at a
time. Ranks of a data-parallel job hold the same gradients, so they divide the matrices among them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

# Jordan et al.'s: they bring singular values near 1 fast rather than exactly to it
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_MOMENTUM = 0.95


def matrix_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Return the weights that Muon takes: those of linear layers, but for output heads (``head``)
    and for layers whose names end in ``out``, the audio encoder's among them; AdamW takes both."""
    return [
        cast(nn.Parameter, layer.weight)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
        and not name.endswith(("head", "out"))
        and layer.weight.requires_grad
    ]


def orthogonalize(matrices: Tensor) -> Tensor:
    """Return matrices (N, rows, columns) with singular values brought near one; shapes stay."""
    a, b, c = _COEFFICIENTS
    x = matrices.to(torch.bfloat16 if matrices.is_cuda else torch.float32)
    tall = x.shape[1] > x.shape[2]
    # Of a wide matrix the Gram matrix is the smaller one
    x = x.mT if tall else x
    # The Frobenius norm bounds the largest singular value, and the iteration wants values up to 1
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        # a x + (b gram + c gram^2) x, each sum within the product beside it
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


def orthogonalize_together(matrices: Tensor) -> Tensor:
    """Return `orthogonalize` of matrices (N, rows, columns) that are the same on every rank; each
    does its share."""
    world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if world == 1:
        return orthogonalize(matrices)
    share = -(-len(matrices) // world)
    first = dist.get_rank() * share
    # all_gather wants equal parts: those of the last ranks are filled up with zeros
    part = matrices.new_zeros(share, *matrices.shape[1:])
    mine = matrices[first : first + share]
    if len(mine):
        part[: len(mine)] = orthogonalize(mine)
    parts = [torch.empty_like(part) for _ in range(world)]
    dist.all_gather(parts, part)
    return torch.cat(parts)[: len(matrices)]


class MuonAdamW(torch.optim.AdamW):
    """AdamW whose groups marked ``muon`` follow Muon instead.

    Args:
        groups: optimizer groups; ``matrices`` among their parameters are split off into groups of
            their own.
        matrices: the parameters (rows, columns) that Muon updates.
        betas, eps: of AdamW.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        matrices: Iterable[nn.Parameter],
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        chosen = {id(parameter) for parameter in matrices}
        split: list[dict[str, Any]] = []
        for group in groups:
            for muon in (False, True):
                part = [
                    parameter for parameter in group["params"] if (id(parameter) in chosen) == muon
                ]
                if part:
                    split.append({**group, "params": part, "muon": muon})
        super().__init__(split, betas=betas, eps=eps, fused=True)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        every = self.param_groups
        # AdamW's step takes every group there is: the others are hidden for its time
        self.param_groups = [group for group in every if not group["muon"]]
        try:
            super().step()
        finally:
            self.param_groups = every
        for group in every:
            if group["muon"]:
                self._step_matrices(group)

    def _step_matrices(self, group: dict[str, Any]) -> None:
        by_shape: dict[torch.Size, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                by_shape.setdefault(parameter.shape, []).append(parameter)
        for shape, parameters in by_shape.items():
            gradients: list[Any] = [parameter.grad for parameter in parameters]
            momenta: list[Any] = [self._momentum(parameter) for parameter in parameters]
            weights: list[Any] = list(parameters)
            # An average as in torch.optim.Muon, and Nesterov's look ahead in the update
            torch._foreach_lerp_(momenta, gradients, 1 - _MOMENTUM)
            updates = orthogonalize_together(
                torch.stack(torch._foreach_lerp(gradients, momenta, _MOMENTUM))
            )
            rate = group["lr"] * 0.2 * max(shape) ** 0.5
            # Decoupled, before the update, as AdamW does it
            if group["weight_decay"]:
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(weights, list(updates), alpha=-rate)

    def _momentum(self, parameter: nn.Parameter) -> Tensor:
        state = self.state[parameter]
        if "momentum" not in state:
            state["step"] = torch.zeros(
                (), device=parameter.device
            )  # AdamW's loader expects one everywhere
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"]
        return momentum
