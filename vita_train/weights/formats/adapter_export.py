"""The adapters of a stage alone, in PEFT's own layout, with what else the stage trained.

::

    <module>/adapter_config.json, adapter_model.safetensors   for PeftModel.from_pretrained
    <module>.safetensors                                      modules that the stage trained in full
    export.json                                               stage, and the weights each adapter
    belongs to
"""

from __future__ import annotations

import shutil
from pathlib import Path

import vita_train
from vita_train.runs.manifest import ModuleRef
from vita_train.runs.run import Run
from vita_train.weights.adapters import base_of
from vita_train.weights.export import listing
from vita_train.weights.export_layouts import ExportLayout, register_export_layout
from vita_train.weights.merge import adapted_stage, merged_alike, own_modules
from vita_train.weights.module_refs import fetched
from vita_train.weights.pretrained import EXPORT_MANIFEST, terms_of
from vita_train.weights.staging import atomic_directory, write_json


def export_adapters(run: Run, out: Path) -> None:
    """Write the adapters of the last stage that trained any.

    They are loaded back onto their bases before the directory gets its name, and must say what they
    say when merged, which is what later stages, chat and the other layouts have.

    Raises:
        UserError: no stage trained adapters, or ``out`` holds something else.
        CheckpointError: an adapter does not belong to its base, or says something else when it is
            merged.
    """
    recipe = run.recipe
    manifest = adapted_stage(run, "")
    bases, adapters, whole = {}, {}, []
    with atomic_directory(out, EXPORT_MANIFEST, "export") as staging_dir:
        for name, ref in own_modules(manifest).items():
            folder = staging_dir / name if ref.base is not None else staging_dir
            folder.mkdir(exist_ok=True)
            files = [
                Path(shutil.copy(path, folder)) for path in fetched(ref, recipe.storage.endpoint)
            ]
            if ref.base is None:
                whole.append(name)
                continue
            adapters[name] = files
            bases[name] = {"weights": _said(ref.base), "digest": base_of(files)}
        # Compared with the copies, not with the files they were made of
        merged_alike(recipe, manifest, adapters)
        write_json(
            staging_dir / EXPORT_MANIFEST,
            {
                "format": "vita-train/export-adapter/v1",
                "version": vita_train.__version__,
                "terms": terms_of(recipe),
                "stage": manifest.stage,
                "adapters": bases,
                "modules": whole,
                "files": listing(staging_dir),
            },
        )


def _said(base: ModuleRef | str) -> str:
    """Return in words which weights an adapter belongs to."""
    if isinstance(base, str):
        return "the pretrained source"
    return f"stage {base.stage}" + (" with its adapter merged" if base.base is not None else "")


register_export_layout(
    ExportLayout(
        "adapter",
        "only the last adapters that were trained, for PEFT",
        "vita_train.weights.formats.adapter_export:export_adapters",
        takes_run=True,
    )
)
