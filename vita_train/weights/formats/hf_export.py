"""One directory for transformers' AutoModel through classes of this package
(`vita_train.weights.auto`)."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from vita_train.models.build import cast_parameters
from vita_train.recipe.schema import Recipe
from vita_train.weights.export import check_same, copy_tokenizer, model_dtype, without_sources
from vita_train.weights.export_layouts import ExportLayout, register_export_layout
from vita_train.weights.formats.exporting import summarise
from vita_train.weights.formats.tensor_locations import flat_location
from vita_train.weights.formats.vita_export import theirs, write_sharded
from vita_train.weights.pretrained import EXPORT_MANIFEST
from vita_train.weights.staging import atomic_directory


def export_hf(modules: nn.ModuleDict, recipe: Recipe, corpus_dir: Path, out: Path) -> None:
    """Write a directory that AutoModel loads once ``vita_train.weights.auto`` is imported, and
    compare the two."""
    from transformers import AutoModel

    from vita_train.weights.auto import VitaTrainConfig, VitaTrainModel

    dtype = model_dtype(recipe)
    cast_parameters(modules, dtype).eval()
    units = len(modules["ctc_head"].state_dict()["weight"]) if "ctc_head" in modules else 0
    config = VitaTrainConfig(
        without_sources(recipe.model).model_dump(mode="json"),
        list(modules),
        units,
        architectures=[VitaTrainModel.__name__],
        dtype=recipe.model.dtype,
    )
    with atomic_directory(out, EXPORT_MANIFEST, "export") as staging_dir:
        config.save_pretrained(str(staging_dir))
        write_sharded(theirs(modules, flat_location, recipe.model), staging_dir)
        copy_tokenizer(corpus_dir, staging_dir)
        loaded = AutoModel.from_pretrained(
            str(staging_dir), dtype=dtype, local_files_only=True
        ).eval()
        check_same(modules, loaded.modules_by_name(), out)
        summarise(staging_dir, "hf", modules, list(modules), recipe)


register_export_layout(
    ExportLayout(
        "hf",
        "transformers' AutoModel with this package",
        "vita_train.weights.formats.hf_export:export_hf",
    )
)
