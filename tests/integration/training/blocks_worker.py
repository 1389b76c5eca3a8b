"""Shard a whole model whose activations are checkpointed, and write which modules each of the two
took as a unit, and how much was in float32 and whole when each was cut."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from tests.helpers.toy import toy_context, toy_recipe
from tests.integration.training.omni_worker import MODEL
from vita_train.data.index.corpus import Corpus
from vita_train.launch.process import run_rank
from vita_train.models.activations import enable_checkpointing
from vita_train.models.build import build_modules
from vita_train.recipe.model import ModelSpec
from vita_train.recipe.modules import MODULES
from vita_train.recipe.stage import StageSpec
from vita_train.training.engines import fsdp2
from vita_train.training.engines.base import EngineContext
from vita_train.training.engines.factory import build_engine
from vita_train.training.objectives.base import Objective
from vita_train.training.parallel.distributed import process_group, world_from_environment


class Everything(Objective):
    """Holds every module there is."""

    @classmethod
    def modules_used(cls, spec: StageSpec, corpus: Corpus) -> tuple[str, ...]:
        return tuple(name for name in MODULES if name != "discriminators")


def elements(parameter: nn.Parameter) -> int:
    """Return the elements of a parameter that is whole and in float32; of another none."""
    is_wide = parameter.dtype is torch.float32 and not isinstance(parameter, DTensor)
    return parameter.numel() if is_wide else 0


def main() -> int:
    """Write the names of the units to the file named on the command line."""
    world = world_from_environment()
    recipe = toy_recipe(engine={"kind": "fsdp2"})
    spec = recipe.stages["1.2"]
    names = Everything.modules_used(spec, None)  # type: ignore[arg-type]
    model = ModelSpec.model_validate(MODEL | {"speech_decoder": {"width": 16, "num_heads": 2}})
    modules = build_modules(model, names, ctc_vocab_size=9, seed=0, dtype=torch.bfloat16)
    enable_checkpointing(modules)
    objective = Everything(toy_context(recipe, "1.2"), modules)
    widened: list[list[int]] = []

    def cut(unit: nn.Module, **options: Any) -> Any:
        own = sum(elements(parameter) for parameter in unit.parameters())
        widened.append([sum(elements(one) for one in objective.parameters()), own])
        return fully_shard(unit, **options)

    fsdp2.fully_shard = cut  # type: ignore[assignment, attr-defined]
    moved: list[str] = []
    objective.to = lambda device: moved.append(str(device))  # type: ignore[assignment, method-assign]
    with process_group(world, timeout=300, always=True):
        build_engine(objective, EngineContext(spec, world, torch.float32))
        inner = [(name, module) for name, module in objective.named_modules() if name]
        found = {
            "sharded": [name for name, module in inner if isinstance(module, FSDPModule)],
            "checkpointed": [name for name, module in inner if "forward" in vars(module)],
            "widened": widened,
            "moved": moved,
        }
    Path(sys.argv[1]).write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    run_rank(main)
