"""The recipe as a JSON schema, for editors that complete and check YAML."""

from __future__ import annotations

from typing import Any

from vita_train.recipe.backends import JOB_BACKENDS
from vita_train.recipe.graph import NAME
from vita_train.recipe.modules import MODULES
from vita_train.recipe.objectives import OBJECTIVES
from vita_train.recipe.schema import Recipe
from vita_train.recipe.tower import TOWERS
from vita_train.recipe.vision import DEFAULT_TOWER


def recipe_json_schema() -> dict[str, Any]:
    """Return the schema, with the names of modules, objectives and job backends spelt out."""
    schema = Recipe.model_json_schema()
    schema["properties"]["stages"]["propertyNames"] = {"pattern": f"^{NAME.pattern}$"}
    schema["$defs"]["StageSpec"]["properties"]["objective"]["enum"] = [*OBJECTIVES]
    schema["$defs"]["LaunchSpec"]["properties"]["backend"]["enum"] = ["auto", *JOB_BACKENDS]
    schema["$defs"]["StageSpec"]["properties"]["trainable"]["propertyNames"] = {
        "enum": list(MODULES)
    }
    for name in TOWERS:  # without a kind, a vision tower is the default one
        if name != DEFAULT_TOWER:
            schema["$defs"][TOWERS[name].spec.__name__]["required"] = ["kind"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "vita-train recipe",
        **{key: value for key, value in schema.items() if key != "title"},
    }
