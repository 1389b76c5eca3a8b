"""Train one batch of every mix of modalities of every stage, on a model that is small in depth and
width.

    python -m vita_train.training.dry_batch RECIPE.yaml RUN

prints one JSON object: the loss of each stage and mix. A process of its own, so that who asks need
not import torch. Whatever a stage's first steps would stumble over in code, data or settings it
stumbles over here, in seconds and without a GPU. Weights are random, so the losses say nothing.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import numpy as np
import torch
from pydantic import ValidationError

from vita_train.data.index.corpus import Corpus, Index, open_corpus
from vita_train.data.index.sample import Sample
from vita_train.errors import EXIT_DONE, DataError, VitaError
from vita_train.models.build import build_modules
from vita_train.recipe.base import Attention
from vita_train.recipe.load import load_recipe
from vita_train.recipe.model import ModelSpec
from vita_train.recipe.schema import Recipe
from vita_train.recipe.stage import StageSpec
from vita_train.runs.run import Run
from vita_train.training.adapters import prepare_adapters
from vita_train.training.freeze import apply_trainable
from vita_train.training.objectives import objective_class
from vita_train.training.objectives.base import Objective, StageContext
from vita_train.training.resume import seed_step

#: Fields that count layers, whatever part of the model they belong to.
_DEPTHS = frozenset({"num_layers", "nar_layers", "ar_layers", "num_blocks"})
#: Layers that are left; towers take features from the last but one.
_LAYERS = 2
#: Short records of a dataset of which one is to be supervised.
_LOOKED_AT = 16
#: Width of the small speech decoder and of its heads; the language model keeps its multiple.
_WIDTH, _HEAD = 32, 16


def small_model(spec: ModelSpec) -> ModelSpec:
    """Return a model of the same parts, tokens and tile geometry with few layers, random weights
    and a narrow language model.

    Where the width cannot change (a projector without weights), it stays.
    """
    shallow = _shallow(spec.model_dump())
    if spec.vision.merge is not None:  # what a block merges depends on how many there are
        shallow["vision"]["num_layers"] = spec.vision.num_layers
    if spec.projector.declared.weightless:
        return ModelSpec.model_validate(shallow)
    # The speech decoder cuts a token's embedding into as many positions
    ratio = max(1, spec.llm.hidden_size // spec.speech_decoder.width)
    narrow = {
        **shallow,
        "llm": {
            **shallow["llm"],
            "hidden_size": _WIDTH * ratio,
            "num_heads": 2 * ratio,
            "num_kv_heads": 2,
            "head_dim": _HEAD,
            "intermediate_size": 2 * _WIDTH * ratio,
        },
        "speech_decoder": {
            **shallow["speech_decoder"],
            "width": _WIDTH,
            "num_heads": 2,
            "intermediate_size": 2 * _WIDTH,
        },
    }
    try:
        return ModelSpec.model_validate(narrow)
    except ValidationError:  # a family of a plugin may bind sizes to each other
        return ModelSpec.model_validate(shallow)


def _shallow(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {key: _shallow_field(key, inner) for key, inner in value.items()}


def _shallow_field(key: str, value: Any) -> Any:
    if key == "source":
        return None
    if key == "attention" and value in get_args(Attention):
        return "auto"  # a kernel that was asked for by name may need a GPU
    return min(value, _LAYERS) if key in _DEPTHS else _shallow(value)


def dry_batches(recipe: Recipe, corpus: Corpus) -> dict[str, dict[str, float]]:
    """Return for each stage the loss of a batch of each mix of modalities.

    Raises:
        DataError: nothing of a mix is supervised, its loss is not finite, or something that trains
            gets no gradient.
        VitaError: whatever the stage would raise at its first steps.
    """
    small = recipe.model_copy(
        update={
            "model": small_model(recipe.model).model_copy(update={"dtype": "float32"}),
            # Released weights would not fit, and nothing here depends on them
            "weights": {},
        }
    )
    return {stage: _dry_stage(small, stage, corpus) for stage in recipe.stages}


def _dry_stage(recipe: Recipe, stage: str, corpus: Corpus) -> dict[str, float]:
    spec = recipe.stages[stage].model_copy(update={"quantize": None})  # 4 bits need a GPU
    corpus = corpus.for_stage(spec)
    where = f"stages.{stage}"
    kind = objective_class(spec.objective)
    names = kind.modules_used(spec, corpus)
    modules = build_modules(
        recipe.model,
        names,
        ctc_vocab_size=len(corpus.ctc_vocab) if "ctc_head" in names else 0,
        seed=recipe.seed,
    )
    device = torch.device("cpu")
    prepare_adapters(
        modules, spec, seed=recipe.seed, device=device, dtype=torch.float32, where=where
    )
    context = StageContext(recipe, stage, spec, corpus, device, torch.float32, 0, 1, recipe.seed)
    objective = kind(context, modules)
    apply_trainable(objective, spec.trainable, where=f"{where}.trainable")
    # Only an order knows whether its rows are packed: a list of samples then
    packed = isinstance((order := objective.order()).load(order.rows(0)[0]), list)
    losses, reached = {}, set()
    for mix, samples in _mixes(corpus, spec):
        rows = [[sample] for sample in samples] if packed else samples
        losses[mix] = _train(objective, rows, where=f"stage {stage}, {mix}")
        # Gradients of earlier mixes are kept: one that reaches a module is enough
        reached |= {
            name
            for name, child in objective.model_modules().items()
            if any(parameter.grad is not None for parameter in child.parameters())
        }
    if unreached := sorted(set(spec.trainable) - reached):
        raise DataError(
            f"no record of the stage gives {', '.join(unreached)} a gradient",
            code="VT-DATA-079",
            where=f"{where}.trainable",
            remedy="take it out of the map, or give the stage data that reach it",
        )
    return losses


def _train(objective: Objective, rows: list[Any], *, where: str) -> float:
    """Return the loss of one batch after a pass forward and backward of every phase."""
    seed = objective.context.seed
    batch = objective.collate(rows, seed=seed)
    weight = objective.weight(batch)
    if weight <= 0:
        raise DataError(
            "none of its positions is supervised",
            code="VT-DATA-080",
            where=f"{where}: {', '.join(batch.sample_ids[:4])}",
            remedy="check the answers of these records",
        )
    # Dropout then draws the same in every try
    seed_step(seed, 0, 0)
    total = 0.0
    for phase in objective.phases:
        loss = objective(batch, phase).loss_sum / weight
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DataError(
                f"the loss of random weights is {value}",
                code="VT-DATA-081",
                where=f"{where}: {', '.join(batch.sample_ids[:4])}",
                remedy="look at the media of these records (vita-train data check)",
            )
        # A phase may update nothing in a stage that freezes its modules
        if loss.requires_grad:
            loss.backward()
        total += value
    return total


def _mixes(corpus: Corpus, spec: StageSpec) -> Iterator[tuple[str, list[Sample]]]:
    """Yield the mixes of modalities that a stage's data have, each with a short record of every
    dataset that has it."""
    found: dict[str, list[Sample]] = {}
    for name in spec.datasets:
        index = corpus.index(name, "train")
        shown, heard = index.tiles > 0, index.frames > 0
        for mix, which in (
            ("text", ~shown & ~heard),
            ("images", shown & ~heard),
            ("audio", ~shown & heard),
            ("images and audio", shown & heard),
        ):
            if len(rows := np.flatnonzero(which)):
                found.setdefault(mix, []).append(_short(index, rows))
    yield from found.items()


def _short(index: Index, rows: np.ndarray) -> Sample:
    """Return the shortest of some rows; one that is supervised, if there is one among the first."""
    # Stable: of equally long ones the first, in every process
    shortest = rows[np.argsort(index.tokens[rows], kind="stable")[:_LOOKED_AT]]
    samples = [index.sample(int(row)) for row in shortest]
    return next((sample for sample in samples if sample.supervised), samples[0])


def main() -> int:
    """Run the command line."""
    recipe = load_recipe(sys.argv[1])
    try:
        losses = dry_batches(recipe, open_corpus(Run(recipe, sys.argv[2])))
    except VitaError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps(losses))
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
