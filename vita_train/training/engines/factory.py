"""The choice of an engine."""

from __future__ import annotations

from vita_train.errors import RecipeError
from vita_train.training.engines.base import Engine, EngineContext
from vita_train.training.objectives.base import Objective


def build_engine(objective: Objective, context: EngineContext) -> Engine:
    """Return the engine a stage asks for, with the objective on its device.

    Raises:
        RecipeError: the engine cannot run this objective, or the optimizer would have nothing to
            do.
    """
    kind = context.spec.engine.kind
    if kind != "torch" and len(objective.phases) > 1:
        raise RecipeError(
            f"objective {context.spec.objective} alternates between "
            f"{' and '.join(objective.phases)}, "
            f"which {kind} cannot do",
            code="VT-RECIPE-060",
            where="engine.kind",
            remedy="use torch",
        )
    if kind == "fsdp2":
        from vita_train.training.engines.fsdp2 import Fsdp2Engine

        return Fsdp2Engine(objective, context)  # which moves what it cuts, unit by unit
    # Before an engine sees it: optimizers and shards hold on to the parameters they are given
    objective.to(context.world.device)
    if kind == "torch":
        from vita_train.training.engines.torch import TorchEngine

        return TorchEngine(objective, context)
    from vita_train.training.engines.deepspeed import DeepSpeedEngine

    return DeepSpeedEngine(objective, context)
