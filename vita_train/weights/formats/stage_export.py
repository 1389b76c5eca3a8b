"""The files that a stage of the public trainer leaves for the next: the projector's, the audio
adapter's, and the model's config.json."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import nn

from vita_train.errors import CheckpointError
from vita_train.models.build import cast_parameters
from vita_train.recipe.schema import Recipe
from vita_train.weights.export import check_same, model_dtype
from vita_train.weights.export_layouts import ExportLayout, register_export_layout
from vita_train.weights.formats.config_check import vita_differences
from vita_train.weights.formats.exporting import read_back, summarise
from vita_train.weights.formats.tensor_locations import vita_location
from vita_train.weights.formats.vita_config import vita_config
from vita_train.weights.formats.vita_export import AGAIN, theirs
from vita_train.weights.pretrained import EXPORT_MANIFEST
from vita_train.weights.staging import atomic_directory, write_json

#: Module to the file that documents of the public trainer name for it.
_FILES = {"projector": "mm_projector.bin", "audio_adapter": "audio_projector.bin"}


def export_stage(modules: nn.ModuleDict, recipe: Recipe, corpus_dir: Path, out: Path) -> None:
    """Write the files of the projector and the audio adapter, import them again, and compare every
    tensor.

    Raises:
        CheckpointError: the run has neither, or they are not those of the public code.
    """
    kept = nn.ModuleDict({name: modules[name] for name in _FILES if name in modules})
    if not kept:
        raise CheckpointError(
            "such files hold a projector or an audio adapter, and this run has neither",
            code="VT-WEIGHTS-088",
            where=recipe.name,
            remedy="train stage 1.1 or 2.1b, or export to own",
        )
    cast_parameters(kept, model_dtype(recipe)).eval()
    if wrong := vita_differences(recipe.model, list(kept), shapes=True):
        raise CheckpointError(
            f"such files cannot say that {wrong[0]}",
            code="VT-WEIGHTS-089",
            where=recipe.name,
            remedy="export to own, which takes every model",
        )
    with atomic_directory(out, EXPORT_MANIFEST, "export") as staging_dir:
        for name in kept:
            one = nn.ModuleDict({name: kept[name]})
            stored = theirs(one, vita_location, recipe.model)
            # Of torch, as the public trainer names and reads it
            torch.save(
                {key: tensor.load() for key, tensor in stored.items()}, staging_dir / _FILES[name]
            )
        fields = vita_config(modules, recipe, corpus_dir / "tokenizer")
        write_json(staging_dir / "config.json", fields)
        again = read_back(recipe, staging_dir, list(kept), staging_dir / AGAIN)
        check_same(kept, again, out)
        shutil.rmtree(staging_dir / AGAIN)
        summarise(staging_dir, "vita-stage", modules, list(kept), recipe)


register_export_layout(
    ExportLayout(
        "vita-stage",
        "what a stage of the public trainer leaves for the next",
        "vita_train.weights.formats.stage_export:export_stage",
    )
)
