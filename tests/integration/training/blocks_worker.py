"""Shard a whole model whose activations are checkpointed, and write which modules each of the two
took as a unit."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch.distributed.fsdp import FSDPModule

from tests.helpers.toy import toy_context, toy_recipe
from tests.integration.training.omni_worker import MODEL
from vita_train.data.index.corpus import Corpus
from vita_train.launch.process import run_rank
from vita_train.models.activations import enable_checkpointing
from vita_train.models.build import build_modules
from vita_train.recipe.model import ModelSpec
from vita_train.recipe.modules import MODULES
from vita_train.recipe.stage import StageSpec
from vita_train.training.engines.base import EngineContext
from vita_train.training.engines.factory import build_engine
from vita_train.training.objectives.base import Objective
from vita_train.training.parallel.distributed import process_group, world_from_environment


class Everything(Objective):
    """Holds every module there is."""

    @classmethod
    def modules_used(cls, spec: StageSpec, corpus: Corpus) -> tuple[str, ...]:
        return tuple(name for name in MODULES if name != "discriminators")


def main() -> int:
    """Write the names of the units to the file named on the command line."""
    world = world_from_environment()
    recipe = toy_recipe(engine={"kind": "fsdp2"})
    spec = recipe.stages["1.2"]
    names = Everything.modules_used(spec, None)  # type: ignore[arg-type]
    model = ModelSpec.model_validate(MODEL | {"speech_decoder": {"width": 16, "num_heads": 2}})
    modules = build_modules(model, names, ctc_vocab_size=9, seed=0)
    enable_checkpointing(modules)
    objective = Everything(toy_context(recipe, "1.2"), modules)
    with process_group(world, timeout=300, always=True):
        build_engine(objective, EngineContext(spec, world, torch.float32))
        inner = [(name, module) for name, module in objective.named_modules() if name]
        found = {
            "sharded": [name for name, module in inner if isinstance(module, FSDPModule)],
            "checkpointed": [name for name, module in inner if "forward" in vars(module)],
        }
    Path(sys.argv[1]).write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    run_rank(main)
