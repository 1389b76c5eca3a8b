"""The optimizer of a stage's phase, by ``optim.kind``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from vita_train.errors import RecipeError
from vita_train.recipe.stage import OptimSpec
from vita_train.training.optim.muon import MuonAdamW, matrix_parameters


def build_optimizer(
    module: nn.Module, groups: Iterable[dict[str, Any]], optim: OptimSpec
) -> torch.optim.Optimizer:
    """Return the optimizer of parameter groups, each with its rate and weight decay.

    Args:
        module: that the parameters are of; Muon asks it which of them are matrices.
        groups: of parameters.
        optim: the recipe's settings.

    Raises:
        RecipeError: a package that the kind needs is not installed.
    """
    given = list(groups)
    if optim.kind == "muon":
        return MuonAdamW(given, matrix_parameters(module), optim.betas, optim.eps)
    if optim.kind == "adafactor":
        # Without momentum, as its authors have it: the second moment alone, by rows and columns
        # (Shazeer and Stern 2018). Its own epsilons stand for optim.eps.
        return torch.optim.Adafactor(given)
    if optim.kind == "adamw_8bit":
        return _eight_bit(given, optim)
    # fused: one pass over memory for all parameters, on processors too
    return torch.optim.AdamW(given, betas=optim.betas, eps=optim.eps, fused=True)


def _eight_bit(groups: list[dict[str, Any]], optim: OptimSpec) -> torch.optim.Optimizer:
    """Return AdamW whose moments are stored in 8 bits, block by block (Dettmers et al. 2022)."""
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise RecipeError(
            "bitsandbytes is not installed",
            code="VT-RECIPE-079",
            where="optim.kind adamw_8bit",
            remedy="pip install 'vita-train[quant]', or take adamw",
        ) from error
    optimizer: torch.optim.Optimizer = AdamW8bit(groups, betas=optim.betas, eps=optim.eps)
    return optimizer
