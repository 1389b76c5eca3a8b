"""Count a recipe's parameters without making them: every module is built on the meta device.

    python -m vita_train.models.count RECIPE.yaml

prints one JSON object, parameters by module, and compares modules with the imported weights on this machine that they
are to start from. A process of its own, so that who asks need not import torch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
import yaml

from vita_train.errors import VitaError
from vita_train.models.build import build_modules
from vita_train.models.checkpoint.load import check_modules
from vita_train.recipe.ladder import MODULES
from vita_train.recipe.model import ModelSpec
from vita_train.recipe.schema import Recipe
from vita_train.storage.model_source import imported_modules
from vita_train.storage.store import is_local, local_path

#: Stands in for the recogniser's units, which are known only after the data is prepared.
UNITS = 1000


def count_parameters(spec: ModelSpec, names: Iterable[str] = MODULES, *, units: int = UNITS) -> dict[str, int]:
    """Return the number of parameters of each named module; tied weights count once."""
    with torch.device("meta"):
        modules = build_modules(spec, names, units=units)
    return {name: sum(parameter.numel() for parameter in module.parameters()) for name, module in modules.items()}


def check_imported(recipe: Recipe) -> None:
    """Compare the weights on this machine that ``model.sources`` name with the modules that are to start from them.

    A recogniser's head is left out: its outputs are known when the data are prepared.

    Raises:
        CheckpointError: naming every tensor that does not fit.
    """
    files = {name: [local_path(file.uri) for file in ref.files] for name, ref in imported_modules(recipe).items()
             if name != "ctc_head" and all(is_local(file.uri) for file in ref.files)}
    with torch.device("meta"):
        modules = build_modules(recipe.model, files)
    check_modules(modules, files)


def main() -> int:
    """Print the counts of the recipe named on the command line, or the reason why its model cannot be built."""
    recipe = Recipe.model_validate(yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8")))
    try:
        check_imported(recipe)
        print(json.dumps(count_parameters(recipe.model)))
    except (VitaError, ValueError, RuntimeError) as error:  # a shape that some library turns down
        print(f"{type(error).__name__}: {error}".splitlines()[0], file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
