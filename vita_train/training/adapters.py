"""Adapters and quantised weights of a stage: put in place before it trains, taken out of what it
has trained."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vita_train.models.build import module_seed
from vita_train.models.lora import adapter_names, add_adapters, merge_adapters, set_adapter, to_peft
from vita_train.models.quantize import import_bitsandbytes, quantize_blocks
from vita_train.recipe.stage import StageSpec
from vita_train.training.inputs import Inputs
from vita_train.weights.adapters import Adapter, AdapterConfig
from vita_train.weights.module_refs import digest_under


def check_libraries(spec: StageSpec, *, where: str) -> None:
    """Raise a RecipeError before anything is loaded if what the stage needs is not installed."""
    if spec.quantize is not None:
        import_bitsandbytes(where=f"{where}.quantize")


def prepare_adapters(
    modules: nn.ModuleDict,
    spec: StageSpec,
    *,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
    where: str,
) -> None:
    """Quantise what the stage wants quantised, and put its adapters in, in place.

    Args:
        modules: with the weights the stage starts from.
        spec: the stage.
        seed: the recipe's seed, from which the adapters' first values are drawn.
        device: where quantised weights shall lie.
        dtype: compute type.
        where: name of the stage's settings, for messages.

    Raises:
        RecipeError: bitsandbytes is not installed, or a module has no layers of a role.
    """
    if spec.quantize is not None:
        quantize_blocks(
            modules["llm"], spec.quantize, device=device, dtype=dtype, where=f"{where}.quantize"
        )
    for name in spec.adapted:
        config = _config(spec, modules[name], where)
        add_adapters(modules[name], config.peft(), seed=module_seed(seed, f"{name}.adapter"))


def take_adapters(
    modules: nn.ModuleDict,
    spec: StageSpec,
    state: Mapping[str, Mapping[str, Tensor]],
    inputs: Inputs,
    *,
    endpoint: str | None,
    where: str,
) -> dict[str, Adapter]:
    """Merge trained adapters into the modules a stage started from, in place; return the adapters
    by module.

    Args:
        modules: freshly loaded, in full precision.
        spec: the stage.
        state: what the engine gathered, by module and by the names in it.
        inputs: where the modules' weights came from.
        endpoint: of the S3 store, when it is not AWS.
        where: name of the stage's settings, for messages.
    """
    found: dict[str, Adapter] = {}
    for name in spec.adapted:
        module, config = modules[name], _config(spec, modules[name], where)
        # Before adapters go in: the digest is that of what they stand on
        base = digest_under(inputs.modules.get(name), module, endpoint=endpoint)
        # Whatever is drawn here is written over by set_adapter
        add_adapters(module, config.peft())
        tensors = {to_peft(key): state[name][key].float() for key in adapter_names(module)}
        set_adapter(module, tensors, where=where)
        merge_adapters(module, where=where)
        found[name] = Adapter(config, tensors, base)
    return found


def _config(spec: StageSpec, module: nn.Module, where: str) -> AdapterConfig:
    assert spec.lora is not None, "a stage with adapted modules has lora"
    return AdapterConfig.of(spec.lora, module, where=f"{where}.lora.roles")
