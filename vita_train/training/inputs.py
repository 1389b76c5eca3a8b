"""What a stage starts from: the newest weights of every module, and the digest of all that
determines its result."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import vita_train
from vita_train.errors import RecipeError
from vita_train.recipe.modules import MODULES
from vita_train.recipe.schema import Recipe
from vita_train.recipe.selection import trainers
from vita_train.recipe.stage import StageSpec
from vita_train.runs.manifest import Manifest, ModuleRef, content_of
from vita_train.runs.run import Run
from vita_train.storage.digest import digest_of
from vita_train.weights.pretrained import pretrained_modules

#: Settings of a stage that do not change its weights; an extension only adds to them (see
#: `extended_digest`).
_NOT_IN_DIGEST = {
    "title",
    "group",
    "after",
    "gates",
    "eval",
    "checkpoint_interval",
    "extend",
    "accept",
}
#: Model settings by module, where the two names differ.
_SPEC_OF = {"discriminators": "codec", "audio_prompt": "audio_adapter", "state_head": "llm"}


@dataclass(frozen=True)
class Inputs:
    """Weights and data a stage starts from."""

    modules: dict[str, ModuleRef]
    """Every module that a stage before it has trained, as the nearest did, or that the recipe's
    ``weights`` name."""
    data: dict[str, str]
    """Dataset of the stage to the digest of its training rows."""


def find_inputs(run: Run, stage: str, needed: Iterable[str]) -> Inputs:
    """Return what the stages before ``stage`` have left.

    Raises:
        RecipeError: the data is not prepared, a stage that trains a needed module has not been run,
            or a needed module is frozen here and nothing has trained it.
        CheckpointError: weights that the recipe names are not there.
    """
    recipe, prepared = run.recipe, run.final("prepare")
    if prepared is None:
        raise RecipeError(
            "the data of this run is not prepared",
            code="VT-RECIPE-066",
            where=run.final_uri("prepare"),
            remedy="run the steps before: fetch and prepare",
        )
    wanted, nearest = set(needed), trainers(recipe, stage)
    finals = {earlier: run.final(earlier) for earlier in dict.fromkeys(nearest.values())}
    modules = pretrained_modules(recipe)
    for module, earlier in nearest.items():
        if (manifest := finals[earlier]) is not None:
            modules.update(
                {name: ref for name, ref in trained_by(manifest).items() if name == module}
            )
        elif module in wanted:
            raise RecipeError(
                f"stage {stage} needs {module} from stage {earlier}, which is not done",
                code="VT-RECIPE-067",
                where=run.final_uri(earlier),
                remedy=f"run stage {earlier} first",
            )
    _check_made(recipe, stage, wanted - set(modules))
    return Inputs(modules, content_of(prepared, recipe.stages[stage].datasets))


def _check_made(recipe: Recipe, stage: str, fresh: set[str]) -> None:
    """Refuse modules that would be read with the random weights they are made with; only the data
    show some of them."""
    spec = recipe.stages[stage]
    made = recipe.model.pretrained | (set(spec.trainable) - set(spec.adapted))
    if unmade := [name for name in MODULES if name in fresh and name not in made]:
        raise RecipeError(
            f"stage {stage} reads {', '.join(unmade)} frozen, but no stage before it trains it and "
            f"the "
            "recipe names no pretrained source",
            code="VT-RECIPE-068",
            where=f"stages.{stage}",
            remedy=f"start after a stage that trains {unmade[0]}, name its weights "
            f"(weights.{unmade[0]}), or take the data that need it out",
        )


def trained_by(manifest: Manifest) -> dict[str, ModuleRef]:
    """Return the modules a stage trained itself, without those it only names."""
    return {name: ref for name, ref in manifest.modules.items() if ref.stage == manifest.stage}


def stage_digest(recipe: Recipe, stage: str, inputs: Inputs, needed: Iterable[str]) -> str:
    """Return the digest of everything that determines the weights of a stage up to its end before
    any extension.

    Checkpoints carry it, so that an extended stage continues from those it has.
    """
    # In the order of MODULES: the digest must not depend on a set's
    needed, spec = [name for name in MODULES if name in set(needed)], recipe.stages[stage]
    model = recipe.model.model_dump(mode="json")
    parts: dict[str, Any] = {
        "stage": stage,
        "spec": spec.model_dump(mode="json", exclude=_not_in_digest(spec)),
        "model": {name: model[_SPEC_OF.get(name, name)] for name in needed}
        | {"dtype": model["dtype"]},
        "tokenizer": recipe.tokenizer.model_dump(mode="json"),
        "template": [recipe.data.template, recipe.data.state_mode],
        "seed": recipe.seed,
        "data": inputs.data,
        "modules": {
            # By content: the same weights at another address leave the digest as it is
            name: [file.sha256 for file in inputs.modules[name].files]
            for name in needed
            if name in inputs.modules
        },
    }
    return digest_of(parts)


def _not_in_digest(spec: StageSpec) -> set[str]:
    """Return the settings that change no weights; a flat loss that is warned about changes none."""
    return _NOT_IN_DIGEST if spec.flat.stop else {*_NOT_IN_DIGEST, "flat"}


def extended_digest(digest: str, spec: StageSpec) -> str:
    """Return the digest of a stage's final weights: `stage_digest`, and the extensions if there are
    any."""
    # Without an extension the digest is that of its checkpoints, as it was before stages could be
    # extended
    return digest_of([digest, spec.extend]) if spec.extend else digest


@cache
def code_version() -> str:
    """Return the package's version and a digest of its sources."""
    root = Path(vita_train.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(
            path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0"
        )
    return f"{vita_train.__version__}+{digest.hexdigest()[:12]}"
