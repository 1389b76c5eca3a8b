"""A finished model in one of several layouts, each loaded back and compared before it gets its
name.

Which layouts there are, `vita_train.weights.export_layouts` says. Here is what they have in common.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import nn

import vita_train
from vita_train.models.build import build_modules, cast_parameters
from vita_train.plugins import named
from vita_train.recipe.schema import Recipe
from vita_train.runs.run import Run
from vita_train.weights.export import listing, load_run, model_dtype
from vita_train.weights.export_layouts import EXPORT_LAYOUTS
from vita_train.weights.formats.importing import plan_import, write_modules
from vita_train.weights.formats.source import open_source
from vita_train.weights.load import load_modules
from vita_train.weights.pretrained import EXPORT_MANIFEST, terms_of
from vita_train.weights.staging import write_json


def export_run_as(run: Run, out: Path, to: str) -> list[Path]:
    """Export the newest weights of a run in a layout; return the files written.

    Raises:
        UserError: the layout is unknown, or ``out`` holds something else.
        CheckpointError: no stage is finished, the layout cannot hold this model, or what was
            written does not load back to the same model.
    """
    layout = EXPORT_LAYOUTS[to]
    write = named(layout.implementation)
    if layout.takes_run:
        write(run, out)
    else:
        write(load_run(run, layout.keeps_types), run.recipe, run.present_corpus(media=False), out)
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
