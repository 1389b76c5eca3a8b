"""The weights a stage ends with: gathered from the engine, whole, and written where the manifest
names them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from vita_train.models.build import cast_parameters
from vita_train.recipe.schema import Recipe
from vita_train.recipe.stage import StageSpec
from vita_train.runs.manifest import ModuleRef
from vita_train.storage.base import Store
from vita_train.storage.scratch import scratch_folder
from vita_train.training.adapters import take_adapters
from vita_train.training.engines.base import Engine
from vita_train.training.inputs import Inputs
from vita_train.training.weights import load_inputs
from vita_train.weights.adapters import Adapter, save_adapter
from vita_train.weights.save import save_modules


@dataclass
class Result:
    """What a stage has made."""

    modules: nn.ModuleDict
    """All modules of the objective with their final weights, adapters merged, in the type the
    recipe stores."""
    adapters: dict[str, Adapter] = field(default_factory=dict)
    """Of the modules that trained through one."""


def gather_result(
    recipe: Recipe,
    stage: str,
    engine: Engine,
    modules: nn.ModuleDict,
    inputs: Inputs,
    *,
    ctc_vocab_size: int,
    device: torch.device,
) -> Result | None:
    """Return the final weights on rank 0, and on every rank whose modules are whole; None on the
    others. Every rank must call it; it closes the engine.

    Adapters, quantised weights and the parts of sharding engines are left behind: the modules are
    loaded anew as the stage found them, and what was trained is put into them.
    """
    spec = recipe.stages[stage]
    state = engine.gather()
    engine.close()
    adapters: dict[str, Adapter] = {}
    if not everywhere(spec):
        if state is None:
            return None
        modules = load_inputs(recipe, inputs, tuple(modules), ctc_vocab_size=ctc_vocab_size)
        for name, tensors in state.items():
            if name in modules and name not in spec.adapted:
                modules[name].load_state_dict(tensors)
        adapters = take_adapters(
            modules, spec, state, inputs, endpoint=recipe.storage.endpoint, where=f"stages.{stage}"
        )
    modules = cast_parameters(modules, getattr(torch, recipe.model.dtype))
    return Result(modules.to(device), adapters)


def everywhere(spec: StageSpec) -> bool:
    """Say whether every rank ends a stage with whole modules that can be used as they are."""
    return spec.engine.kind == "torch" and not spec.adapted and not spec.quantize


def store_result(
    recipe: Recipe,
    stage: str,
    result: Result,
    inputs: Inputs,
    store: Store,
    prefix: str,
    scratch: Path,
) -> dict[str, ModuleRef]:
    """Write what the stage trained to the store and return the references; an adapter's names its
    base.

    Args:
        recipe: the run's recipe.
        stage: stage id.
        result: the final weights.
        inputs: what the stage started from.
        store: of the run.
        prefix: of the keys.
        scratch: directory of this machine to write in first; made if it is not there.
    """
    spec: StageSpec = recipe.stages[stage]
    trained = [name for name in spec.trainable if name in result.modules]
    with scratch_folder(scratch, "final") as folder:
        paths = save_modules(
            {name: result.modules[name] for name in trained if name not in result.adapters}, folder
        )
        paths |= {
            name: save_adapter(
                adapter,
                folder / name,
                source=recipe.model.sources.get(name),
                language=name == "llm",
            )
            for name, adapter in result.adapters.items()
        }
        return {
            name: ModuleRef(
                stage=stage,
                files=tuple(
                    # Moved where the store is a disk: a second copy of large weights may not fit
                    store.upload(path, f"{prefix}/{path.relative_to(folder).as_posix()}", move=True)
                    for path in paths[name]
                ),
                base=inputs.modules.get(name, "source") if name in result.adapters else None,
            )
            for name in trained
        }
