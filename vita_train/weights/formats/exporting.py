"""A finished model in one of several layouts, each loaded back and compared before it gets its
name.

Which layouts there are, `vita_train.weights.export_layouts` says. Here is what they have in common.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import vita_train
from vita_train.errors import UserError
from vita_train.models.build import build_modules, cast_parameters
from vita_train.plugins import named
from vita_train.recipe.schema import Recipe
from vita_train.recipe.special_ids import IMAGE_ID
from vita_train.runs.run import Run
from vita_train.weights.compare import computed_in_float32, probe, probe_logits
from vita_train.weights.export import listing, load_run, model_dtype
from vita_train.weights.export_layouts import EXPORT_LAYOUTS
from vita_train.weights.formats.importing import plan_import, write_modules
from vita_train.weights.formats.source import open_source
from vita_train.weights.load import load_modules
from vita_train.weights.pretrained import EXPORT_MANIFEST, terms_of
from vita_train.weights.staging import write_json


def export_run_as(
    run: Run, out: Path, to: str, *, shard_bytes: int = 0, fp32: bool = False
) -> list[Path]:
    """Export the newest weights of a run in a layout; return the files written.

    Args:
        run: with finished stages.
        out: directory to make.
        to: a key of EXPORT_LAYOUTS.
        shard_bytes: above which a file of weights is split; 0 leaves it to the layout.
        fp32: write parameters as float32, whatever the recipe stores them as.

    Raises:
        UserError: the layout is unknown or has no say in the size of its files, or ``out`` holds
            something else.
        CheckpointError: no stage is finished, the layout cannot hold this model, or what was
            written does not load back to the same model.
    """
    layout = EXPORT_LAYOUTS[to]
    if (shard_bytes and not layout.takes_shard_size) or (fp32 and layout.takes_run):
        raise UserError(
            f"layout {to} is written one way only",
            code="VT-USE-280",
            where="--max-shard-size" if shard_bytes else "--fp32",
            remedy="drop the option",
        )
    if fp32:
        model = run.recipe.model.model_copy(update={"dtype": "float32"})
        run = replace(run, recipe=run.recipe.model_copy(update={"model": model}))
    write = named(layout.implementation)
    if layout.takes_run:
        write(run, out)
    else:
        more = {"shard_bytes": shard_bytes} if shard_bytes else {}
        modules = load_run(run, layout.keeps_types)
        write(modules, run.recipe, run.present_corpus(media=False), out, **more)
    return sorted(path for path in out.rglob("*") if path.is_file())


def read_back(
    recipe: Recipe,
    directory: Path,
    names: Iterable[str],
    scratch: Path,
    types: Mapping[str, torch.dtype] | None = None,
) -> nn.ModuleDict:
    """Return modules of a checkpoint in a layout that can be imported; they stay in files below
    ``scratch``. Parameters have the recipe's type, or the one that ``types`` names.

    Raises:
        CheckpointError: a tensor of it is not explained.
    """
    plan = plan_import(open_source(directory), recipe.model, list(names), recipe.data.audio)
    plan.report.check()
    scratch.mkdir()
    written = write_modules(plan, scratch)
    modules = build_modules(recipe.model, written, dtype=model_dtype(recipe), empty=True)
    for name, dtype in (types or {}).items():
        cast_parameters(nn.ModuleDict({name: modules[name]}), dtype)
    load_modules(
        modules,
        {name: [scratch / file for file in files] for name, files in written.items()},
        mapped=True,
    )
    return modules.eval()


def summarise(
    staging_dir: Path,
    layout: str,
    modules: nn.ModuleDict,
    written: list[str],
    recipe: Recipe,
    reasons: Mapping[str, str] | None = None,
) -> None:
    """Write export.json: what a directory that has no name yet holds, and what of the run it does
    not, with the reason where there is more to say than that the layout has no place for it."""
    unlike = dict(reasons or {})
    summary = {
        "format": f"vita-train/export-{layout}/v1",
        "version": vita_train.__version__,
        "terms": terms_of(recipe),
        "modules": written,
        "left_out": [name for name in [*modules, *unlike] if name not in written],
        "reasons": unlike,
        "files": listing(staging_dir),
    }
    write_json(staging_dir / EXPORT_MANIFEST, summary)


def added_token(tokenizer: Any, token: str) -> int:
    """Return the id of a control token; it is added to transformers' tokenizer unless it has it."""
    if token not in tokenizer.get_vocab():
        # Else the tokenizer would forget the control tokens it has
        tokenizer.add_special_tokens(
            {"additional_special_tokens": [token]}, replace_extra_special_tokens=False
        )
    return int(tokenizer.convert_tokens_to_ids(token))


@torch.no_grad()
def probe_both(modules: nn.ModuleDict, model: Any) -> tuple[Tensor, Tensor]:
    """Return what modules and a model of transformers that was made of them say to a probe with an
    image, computed in float32: (1, positions, V) each. No visual token is merged.

    Args:
        modules: language model, tower and projector.
        model: takes ``input_ids`` with ``config.image_token_id`` where the image stands, and
            ``pixel_values``.
    """
    image, prompt = model.config.image_token_id, probe(modules)
    # A token drawn by chance must not pass for the image's
    ids = prompt.input_ids.masked_fill(prompt.input_ids == image, 0)
    with computed_in_float32(modules):
        ours = probe_logits(modules, replace(prompt, input_ids=ids))
    with computed_in_float32(model):
        logits = model(
            input_ids=ids.masked_fill(ids == IMAGE_ID, image)[None], pixel_values=prompt.tiles
        ).logits
    # Theirs may have rows for added tokens behind the vocabulary
    return ours, logits[..., : ours.shape[-1]]
