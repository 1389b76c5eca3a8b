"""Low-rank adapters in the linear layers of a module, by PEFT; the module keeps its class and its
calls.

peft is imported where adapters are made: it takes seconds, and most stages have none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vita_train.errors import CheckpointError, RecipeError

if TYPE_CHECKING:
    from peft import LoraConfig

#: Parts of a layer's name by which its role is known, in the language models, vision towers and
#: encoders built here.
_SEGMENTS: dict[str, tuple[str, ...]] = {
    "attention": ("self_attn", "attention"),
    "mlp": ("mlp", "feed_forward"),
}
#: Names of the biases that train and are saved with an adapter.
# (?!) matches nothing
_BIASES = {"none": r"(?!)", "all": r"(^|\.)bias$", "lora_only": r"\.base_layer\.bias$"}
#: PEFT's name of the only adapter a module has here.
_NAME = "default"
#: What every name of an adapter's tensor in PEFT's files begins with.
_PREFIX = "base_model.model."


def target_layers(
    module: nn.Module, roles: Iterable[str], *, where: str = "lora.roles"
) -> list[str]:
    """Return the linear layers of the given roles as name endings, ``self_attn.q_proj``, sorted.

    An ending names the layer in every block, and no layer outside the blocks: it starts with the
    part that has the role.

    Raises:
        RecipeError: the module has no linear layer of a role.
    """
    found: set[str] = set()
    for role in roles:
        endings = {
            ending
            for name, layer in module.named_modules()
            if isinstance(layer, nn.Linear)
            if (ending := _from_segment(name, _SEGMENTS[role]))
        }
        if not endings:
            raise RecipeError(
                f"the model has no linear layers of role {role!r}",
                code="VT-RECIPE-022",
                where=where,
                remedy="take the role out",
            )
        found |= endings
    return sorted(found)


def _from_segment(name: str, segments: Sequence[str]) -> str:
    parts = name.split(".")
    return next(
        (".".join(parts[place:]) for place, part in enumerate(parts) if part in segments), ""
    )


def add_adapters(module: nn.Module, config: LoraConfig, *, seed: int = 0) -> None:
    """Put adapters into a module, in place, and freeze the rest. They change nothing yet: the
    matrix B is zero.

    The first values of A are drawn from ``seed`` alone, so that every rank has the same and nothing
    else moves.
    """
    from peft import inject_adapter_in_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, module, adapter_name=_NAME)
    module.train(module.training)  # what was put in is in training mode, dropout included


def has_adapters(module: nn.Module) -> bool:
    """True once adapters were put into the module, until they are merged."""
    return hasattr(module, "peft_config")  # what PEFT leaves on a module; it has no better sign


def release_adapters(module: nn.Module) -> None:
    """Let exactly the adapters train, and the biases where the adapter says so."""
    trained = set(adapter_names(module))
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in trained)


def adapter_names(module: nn.Module) -> list[str]:
    """Return the names of the parameters that belong to a module's adapter, in order."""
    config: Any = module.peft_config
    biases = _BIASES[config[_NAME].bias]
    return [
        name
        for name, _ in module.named_parameters()
        if (f".{_NAME}." in name and ".lora_" in name) or re.search(biases, name)
    ]


def to_peft(name: str) -> str:
    """Return the name under which PEFT stores a parameter of an adapter."""
    return _PREFIX + name.replace(f".{_NAME}.", ".")


@torch.no_grad()
def set_adapter(module: nn.Module, tensors: dict[str, Tensor], *, where: str) -> None:
    """Give a module's adapter its values.

    Args:
        module: with adapters of the same configuration.
        tensors: by PEFT's names.
        where: the file they come from.

    Raises:
        CheckpointError: tensors are missing, unexpected or of another shape.
    """
    own = {to_peft(name): module.get_parameter(name) for name in adapter_names(module)}
    problems = [f"{name} is missing" for name in sorted(set(own) - set(tensors))]
    problems += [
        f"{name} belongs to no layer of the model" for name in sorted(set(tensors) - set(own))
    ]
    problems += [
        f"{name} is {tuple(tensors[name].shape)} in the file and {tuple(own[name].shape)} in the "
        f"model"
        for name in sorted(set(own) & set(tensors))
        if tensors[name].shape != own[name].shape
    ]
    if problems:
        raise CheckpointError(
            f"the adapter does not fit the model: {'; '.join(problems[:5])}",
            code="VT-WEIGHTS-008",
            where=where,
            remedy="use the recipe the adapter was trained with",
        )
    for name, parameter in own.items():
        parameter.copy_(tensors[name])


def merge_adapters(module: nn.Module, *, where: str = "") -> None:
    """Add alpha / rank * B A to each adapted matrix, in place and in its type, and take the
    adapters out.

    Raises:
        CheckpointError: a product is not finite.
    """
    from peft.tuners.lora import LoraLayer

    for name, layer in list(module.named_modules()):
        if isinstance(layer, LoraLayer):
            merging: Any = layer
            try:
                # Tried on a copy first: a matrix is not touched by a product that is not finite
                merging.merge(safe_merge=True)
            except ValueError as error:
                raise CheckpointError(
                    f"the adapter of {name} holds numbers that are not finite",
                    code="VT-WEIGHTS-009",
                    where=where,
                    remedy="train the stage again with lower rates",
                ) from error
            module.set_submodule(name, merging.get_base_layer())
    # has_adapters goes by it
    del module.peft_config
    # As a module is built: PEFT had frozen the matrices
    module.requires_grad_(True)
