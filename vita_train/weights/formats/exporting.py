"""A finished model in one of several layouts, each loaded back and compared before it gets its name.

====================  ==============================================================================================
own                   ours, weights/export.py: every module, with what chat and evaluation need
vita                  the released VITA-1.5 checkpoint; imported again it is the same bit for bit
hf                    one directory for transformers' AutoModel through classes of this package (weights/auto.py)
internvl              the vision-language half for transformers' own InternVL classes
adapter               only the adapters of the last stage that trained any, for PEFT
====================  ==============================================================================================
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import vita_train
from vita_train.errors import CheckpointError, UserError
from vita_train.models.build import build_modules, cast_parameters
from vita_train.models.inputs import IMAGE_ID
from vita_train.recipe.schema import Recipe
from vita_train.weights.compare import computed_in_float32, probe, probe_logits
from vita_train.weights.export import (
    check_same,
    copy_tokenizer,
    export_model,
    listing,
    load_run,
    load_tokenizer,
    model_dtype,
    without_sources,
)
from vita_train.weights.formats.adapter_export import export_adapters
from vita_train.weights.formats.config_check import vita_differences
from vita_train.weights.formats.importing import plan_import, write_modules
from vita_train.weights.formats.internvl_export import PARTS, write_internvl
from vita_train.weights.formats.places import flat_place
from vita_train.weights.formats.source import open_source
from vita_train.weights.formats.vita_export import theirs, write_sharded, write_vita
from vita_train.weights.load import load_modules
from vita_train.weights.pretrained import EXPORT_MANIFEST, terms_of
from vita_train.weights.staging import placed, write_json

#: Largest difference of logits to those of the model that was exported, as a share of the largest logit. The InternVL
#: layout computes the same in another order.
_TOLERANCE = 1e-4
#: Where an export in a foreign layout is imported again, within the directory that has no name yet.
_AGAIN = ".again"


def export_run_as(recipe: Recipe, run: str, corpus_dir: Path, out: Path, to: str) -> list[Path]:
    """Export the newest weights of a run in a layout; return the files written.

    Raises:
        UserError: the layout is unknown, or ``out`` holds something else.
        CheckpointError: no stage is finished, the layout cannot hold this model, or what was written does not load
            back to the same model.
    """
    if to not in (known := (*TARGETS, "adapter")):
        raise UserError(f"unknown layout {to!r}", where="--to", remedy=f"layouts are {', '.join(known)}")
    if to == "adapter":
        export_adapters(recipe, run, out)
    else:
        TARGETS[to](load_run(recipe, run), recipe, corpus_dir, out)
    return sorted(path for path in out.rglob("*") if path.is_file())


def export_vita(modules: nn.ModuleDict, recipe: Recipe, corpus_dir: Path, out: Path) -> None:
    """Write the released VITA-1.5 layout, import it again, and compare every tensor and the logits of a probe."""
    cast_parameters(modules, model_dtype(recipe)).eval()
    if wrong := vita_differences(recipe.model, list(modules)):
        raise CheckpointError(f"the released layout cannot say that {wrong[0]}", where=recipe.name,
                              remedy="export to own, which takes every model")
    with placed(out, EXPORT_MANIFEST, "export") as aside:
        written = write_vita(modules, recipe, aside)
        copy_tokenizer(corpus_dir, aside)
        check_same(modules, read_back(recipe, aside, written, aside / _AGAIN), out)
        shutil.rmtree(aside / _AGAIN)
        _summarise(aside, "vita", modules, written, recipe)


def export_hf(modules: nn.ModuleDict, recipe: Recipe, corpus_dir: Path, out: Path) -> None:
    """Write a directory that AutoModel loads once ``vita_train.weights.auto`` is imported, and compare the two."""
    from transformers import AutoModel

    from vita_train.weights.auto import VitaTrainConfig, VitaTrainModel

    dtype = model_dtype(recipe)
    cast_parameters(modules, dtype).eval()
    units = len(modules["ctc_head"].state_dict()["weight"]) if "ctc_head" in modules else 0
    config = VitaTrainConfig(without_sources(recipe.model).model_dump(mode="json"), list(modules), units,
                             architectures=[VitaTrainModel.__name__], dtype=recipe.model.dtype)
    with placed(out, EXPORT_MANIFEST, "export") as aside:
        config.save_pretrained(str(aside))
        write_sharded(theirs(modules, flat_place), aside)
        copy_tokenizer(corpus_dir, aside)
        loaded = AutoModel.from_pretrained(str(aside), dtype=dtype, local_files_only=True).eval()
        check_same(modules, loaded.modules_by_name(), out)
        _summarise(aside, "hf", modules, list(modules), recipe)


def export_internvl(modules: nn.ModuleDict, recipe: Recipe, corpus_dir: Path, out: Path) -> None:
    """Write the vision-language half for transformers' InternVL classes, run both in float32 and compare logits."""
    dtype = model_dtype(recipe)
    cast_parameters(modules, dtype).eval()
    with placed(out, EXPORT_MANIFEST, "export") as aside:
        copy_tokenizer(corpus_dir, aside)
        written = write_internvl(modules, recipe, load_tokenizer(aside), aside)
        half = nn.ModuleDict({name: modules[name] for name in PARTS})
        sight = nn.ModuleDict({name: half[name] for name in PARTS if name != "llm"})
        cast_parameters(sight, torch.float32)
        ours, others = internvl_logits(half, aside)
        cast_parameters(sight, dtype)
        worst = float((ours - others).abs().max() / ours.abs().max())
        if not worst <= _TOLERANCE:
            raise CheckpointError(f"the logits of a probe differ by {worst:.1e} of the largest", where=str(out),
                                  remedy="export to own or vita, whose computation is the same")
        _summarise(aside, "internvl", modules, written, recipe)


TARGETS: dict[str, Callable[[nn.ModuleDict, Recipe, Path, Path], Any]] = {
    "own": export_model, "vita": export_vita, "internvl": export_internvl, "hf": export_hf}


def read_back(recipe: Recipe, directory: Path, names: Iterable[str], scratch: Path) -> nn.ModuleDict:
    """Return modules of a checkpoint in a layout that can be imported; they stay in files below ``scratch``.

    Raises:
        CheckpointError: a tensor of it is not explained.
    """
    plan = plan_import(open_source(directory), recipe.model, list(names))
    plan.ledger.check()
    scratch.mkdir()
    written = write_modules(plan, scratch)
    modules = build_modules(recipe.model, written, dtype=model_dtype(recipe), empty=True)
    load_modules(modules, {name: [scratch / file for file in files] for name, files in written.items()},
                 mapped=True)
    return modules.eval()


@torch.no_grad()
def internvl_logits(modules: nn.ModuleDict, directory: Path) -> tuple[Tensor, Tensor]:
    """Return what modules and transformers' InternVL classes say to a probe, in float32: (1, positions, V) each.

    Tower and projector must be in float32; the language model may stay as it is stored.
    """
    from transformers import InternVLForConditionalGeneration

    class AsStored(InternVLForConditionalGeneration):
        """Keeps what is stored in float32 when the language model is loaded in less."""

        _keep_in_fp32_modules_strict = ["vision_tower", "multi_modal_projector"]

    llm: Any = modules["llm"]
    model = AsStored.from_pretrained(str(directory), dtype=llm.dtype, local_files_only=True).eval()
    picture, prompt = model.config.image_token_id, probe(modules)
    ids = prompt.input_ids.masked_fill(prompt.input_ids == picture, 0)
    with computed_in_float32(modules):
        ours = probe_logits(modules, replace(prompt, input_ids=ids))
    with computed_in_float32(model):
        logits = model(input_ids=ids.masked_fill(ids == IMAGE_ID, picture)[None], pixel_values=prompt.tiles).logits
    return ours, logits[..., : ours.shape[-1]]


def _summarise(aside: Path, layout: str, modules: nn.ModuleDict, written: list[str], recipe: Recipe) -> None:
    """Write export.json: what the directory holds, and what of the run it does not."""
    summary = {"format": f"vita-train/export-{layout}/v1", "version": vita_train.__version__,
               "terms": terms_of(recipe), "modules": written,
               "left_out": [name for name in modules if name not in written], "files": listing(aside)}
    write_json(aside / EXPORT_MANIFEST, summary)
