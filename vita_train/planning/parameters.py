"""Count a recipe's parameters without making them: every module is built on the meta device.

    python -m vita_train.planning.parameters RECIPE.yaml

prints one JSON object: parameters by module, and for stages with adapters those that train. It also
compares modules with the weights on this machine that they are to start from. A process of its own,
so that who asks need not import torch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable

import torch
from torch import nn

from vita_train.errors import VitaError
from vita_train.models.activations import transformer_blocks
from vita_train.models.build import build_modules
from vita_train.models.lora import target_layers
from vita_train.models.quantize import quantized_bytes
from vita_train.planning.assumed import CTC_VOCAB_SIZE
from vita_train.recipe.load import load_recipe
from vita_train.recipe.lora import LoraSpec, QuantizeSpec
from vita_train.recipe.model import ModelSpec
from vita_train.recipe.modules import MODULES
from vita_train.recipe.schema import Recipe
from vita_train.storage.base import is_local, local_path
from vita_train.weights.load import check_modules
from vita_train.weights.pretrained import pretrained_modules


def count_parameters(
    spec: ModelSpec, names: Iterable[str] = MODULES, *, ctc_vocab_size: int = CTC_VOCAB_SIZE
) -> dict[str, int]:
    """Return the number of parameters of each named module; tied weights count once."""
    with torch.device("meta"):
        modules = build_modules(spec, names, ctc_vocab_size=ctc_vocab_size)
    return {
        name: sum(parameter.numel() for parameter in module.parameters())
        for name, module in modules.items()
    }


def meta_modules(spec: ModelSpec, names: Iterable[str]) -> dict[str, nn.Module]:
    """Return modules that have shapes and no weights."""
    with torch.device("meta"):
        return dict(build_modules(spec, names, ctc_vocab_size=CTC_VOCAB_SIZE).items())


def count_adapters(spec: ModelSpec, lora: LoraSpec) -> dict[str, int]:
    """Return the parameters that train in each module that adapters are put into.

    Raises:
        RecipeError: a module has no layers of a role.
    """
    modules = meta_modules(spec, lora.modules)
    counts = {}
    for name, module in modules.items():
        endings = tuple(f".{ending}" for ending in target_layers(module, lora.roles))
        layers = [
            layer
            for key, layer in module.named_modules()
            if isinstance(layer, nn.Linear) and f".{key}".endswith(endings)
        ]
        biases = [
            parameter for key, parameter in module.named_parameters() if f".{key}".endswith(".bias")
        ]
        counts[name] = sum(
            lora.rank * (layer.in_features + layer.out_features) for layer in layers
        ) + (sum(bias.numel() for bias in biases) if lora.bias == "all" else 0)
    return counts


def count_quantized(spec: ModelSpec, quantize: QuantizeSpec) -> tuple[int, int]:
    """Return the weights of the language model that would be quantised, and the bytes they would
    take."""
    blocks = [*transformer_blocks(meta_modules(spec, ["llm"]))]
    layers = [
        layer for block in blocks for layer in block.modules() if isinstance(layer, nn.Linear)
    ]
    return (
        sum(layer.weight.numel() for layer in layers),
        sum(quantized_bytes(layer, quantize) for layer in layers),
    )


def check_pretrained(recipe: Recipe) -> None:
    """Compare the weights on this machine that the recipe names with the modules that are to start
    from them.

    Left out are adapters, which are checked against what they belong to when they are loaded, and a
    recogniser's head, whose outputs are known when the data are prepared.

    Raises:
        CheckpointError: naming every tensor that does not fit.
    """
    files = {
        name: [local_path(file.uri) for file in ref.files]
        for name, ref in pretrained_modules(recipe).items()
        if name != "ctc_head" and ref.base is None and all(is_local(file.uri) for file in ref.files)
    }
    with torch.device("meta"):
        modules = build_modules(recipe.model, files, empty=True)
    check_modules(modules, files)


def main() -> int:
    """Print the counts of the recipe named on the command line, or the reason why its model cannot
    be built."""
    recipe = load_recipe(sys.argv[1])
    try:
        check_pretrained(recipe)
        adapters = {
            stage: count_adapters(recipe.model, spec.lora)
            for stage, spec in recipe.stages.items()
            if spec.lora
        }
        print(json.dumps({"modules": count_parameters(recipe.model), "adapters": adapters}))
    except (VitaError, ValueError, RuntimeError) as error:  # a shape that some library turns down
        print(f"{type(error).__name__}: {error}".splitlines()[0], file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
