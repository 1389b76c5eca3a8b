"""Learning rates that are known to undo what pretrained modules can, or that are never reached."""

from __future__ import annotations

from vita_train.recipe.objectives import OBJECTIVES
from vita_train.recipe.schema import Recipe
from vita_train.recipe.selection import modules_needed

#: Rate above which a whole pretrained model that trains at once forgets; the public scripts give
#: 2e-5 and less.
HIGH_RATE = 5e-5


def rate_warnings(recipe: Recipe) -> tuple[str, ...]:
    """Return a line for each stage whose warm-up outlasts it, and for each that trains every module
    of a pretrained model at once, one of the pretrained at a rate above `HIGH_RATE`."""
    pretrained = {*recipe.model.sources, *recipe.weights}
    lines = []
    for stage, spec in recipe.stages.items():
        if spec.steps is not None and 1 <= spec.steps <= spec.optim.warmup:
            lines.append(
                f"stage {stage} ends after {spec.steps} steps, before its warm-up of "
                f"{spec.optim.warmup:g}: its rates are never reached; lower "
                f"stages.{stage}.optim.warmup"
            )
        modules = {*modules_needed(recipe, stage)} - recipe.model.weightless
        whole = {*spec.trainable} - {*spec.adapted}
        high = [name for name in whole & pretrained if spec.trainable[name] > HIGH_RATE]
        if (
            OBJECTIVES[spec.objective].reads == "tokens"
            and len(modules) > 1
            and modules <= whole
            and high
        ):
            rates = ", ".join(f"{name} {rate:g}" for name, rate in spec.trainable.items())
            lines.append(
                f"stage {stage} trains everything at once at a high rate ({rates}): what "
                f"{', '.join(sorted(high))} could before is likely to be forgotten; go below "
                f"{HIGH_RATE:g}, freeze a part, or train adapters (stages.{stage}.lora)"
            )
    return tuple(lines)
