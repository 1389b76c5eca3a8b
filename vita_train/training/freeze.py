"""Which parameters train: one explicit map from module to learning rate, applied once and asserted
by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from vita_train.errors import RecipeError, VitaError
from vita_train.models.lora import has_adapters, release_adapters
from vita_train.recipe.modules import MODULES
from vita_train.training.objectives.base import Objective


def apply_trainable(
    objective: Objective, trainable: Mapping[str, float], *, where: str = "trainable"
) -> list[str]:
    """Freeze every module of the model that ``trainable`` does not name, and release the others.

    Of a module with adapters only these are released, and never what the objective itself holds
    fixed. Throw-away heads (children that are no modules of the model) always train. Frozen modules
    are put in eval mode and stay there, because ``Objective.train`` forces it again.

    Returns:
        Names of all parameters that train, in order.

    Raises:
        RecipeError: a named module is not part of the objective or holds no parameters.
    """
    children = dict(objective.named_children())
    for name in trainable:
        if name not in children:
            held = ", ".join(objective.model_modules())
            raise RecipeError(
                f"module {name!r} is not used by this objective",
                code="VT-RECIPE-062",
                where=where,
                remedy=f"trainable modules here: {held}",
            )
        if not any(True for _ in children[name].parameters()):
            raise RecipeError(
                f"module {name!r} has no parameters to train",
                code="VT-RECIPE-063",
                where=where,
                remedy="remove it from the trainable map",
            )
    # Set first: train() below puts these, and no others, into eval mode
    objective.frozen = tuple(name for name in children if name in MODULES and name not in trainable)
    for name, child in children.items():
        if name in objective.frozen:
            child.requires_grad_(False)
        elif has_adapters(child):
            release_adapters(child)
        else:
            child.requires_grad_(True)
    for parameter in objective.fixed_parameters():
        parameter.requires_grad_(False)
    objective.train()
    names = trained_names(objective)
    assert_trainable(objective, names)
    return names


def trained_names(objective: nn.Module) -> list[str]:
    """Return the names of the parameters that require gradients, in definition order."""
    return [name for name, parameter in objective.named_parameters() if parameter.requires_grad]


def assert_trainable(objective: Objective, names: Iterable[str]) -> None:
    """Check that exactly ``names`` train and that frozen modules are in eval mode.

    Raises:
        VitaError: something between the map and here released, froze or switched a module.
    """
    wanted, found = set(names), set(trained_names(objective))
    frozen_prefixes = tuple(f"{name}." for name in objective.frozen)
    leaked = (
        sorted(name for name in found if name.startswith(frozen_prefixes))
        if frozen_prefixes
        else []
    )
    if wanted != found or leaked:
        differing = leaked or sorted(wanted ^ found)
        raise VitaError(
            f"the set of trained parameters is not what the recipe asks for: "
            f"{', '.join(differing[:5])}",
            code="VT-FAIL-009",
            remedy="an objective or engine changed requires_grad; this is a fault of the program",
        )
    awake = [
        name
        for name in objective.frozen
        if any(part.training for part in getattr(objective, name).modules())
    ]
    if awake:
        raise VitaError(
            f"frozen modules are in training mode: {', '.join(awake)}",
            code="VT-FAIL-010",
            remedy="an objective or engine switched the mode; this is a fault of the program",
        )


def param_groups(
    objective: Objective,
    trainable: Mapping[str, float],
    weight_decay: float,
    only: Iterable[nn.Parameter] | None = None,
) -> list[dict[str, Any]]:
    """Return optimizer groups: per module its rate, split into decayed and not decayed when decay
    is on.

    Vectors and scalars (biases, norms) are not decayed. Throw-away heads take the highest rate of
    the map.

    Args:
        only: parameters of one phase; none takes all that train.

    Raises:
        RecipeError: a module of the map contributes no parameter to any group (with ``only`` given,
            a phase may well leave modules out, and only a phase without any parameter is an error).
    """
    # By id: == of tensors compares values
    allowed = None if only is None else {id(parameter) for parameter in only}
    top = max(trainable.values())
    groups: list[dict[str, Any]] = []
    seen: set[int] = set()
    for name, child in objective.named_children():
        if name in objective.frozen:
            continue
        chosen = [
            parameter
            for parameter in child.parameters()
            if parameter.requires_grad
            # Tied weights belong to the first module that holds them, and are updated once
            and id(parameter) not in seen
            and (allowed is None or id(parameter) in allowed)
        ]
        seen.update(id(parameter) for parameter in chosen)
        if not chosen:
            if allowed is None and name in trainable:
                raise RecipeError(
                    f"the optimizer group of {name!r} is empty",
                    code="VT-RECIPE-064",
                    where="trainable",
                    remedy="its parameters are shared with another module; name only one of the "
                    "two",
                )
            continue
        rate = trainable.get(name, top)
        decayed = [parameter for parameter in chosen if parameter.ndim >= 2]
        plain = [parameter for parameter in chosen if parameter.ndim < 2]
        for part, decay in (
            [(chosen, 0.0)] if weight_decay == 0 else [(decayed, weight_decay), (plain, 0.0)]
        ):
            if part:
                groups.append(
                    {
                        "params": part,
                        "module": name,
                        "lr": rate,
                        # The schedule sets lr anew at each step from this
                        "peak_lr": rate,
                        "weight_decay": decay,
                    }
                )
    if not groups:
        raise RecipeError(
            "nothing to train in this phase",
            code="VT-RECIPE-065",
            where="trainable",
            remedy="name the modules that the objective updates",
        )
    return groups
