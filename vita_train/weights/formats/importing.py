"""Someone else's checkpoint as safetensors files of our modules.

::

    <module>.safetensors one per module, or several above 5 GB; types as they were
    unused.safetensors   what nothing reads, by the layout's names; written back by an export
    ledger.json          what became of every tensor of the source
    import.json          size and sha256 of every file, modules, layout, terms that were accepted

Tensors pass in pieces of a few megabytes. The directory is written aside and gets its name when it
is whole; ``weights`` of a recipe name it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import vita_train
from vita_train.errors import UserError
from vita_train.models.build import build_modules
from vita_train.recipe.data import AudioSpec
from vita_train.recipe.model import ModelSpec
from vita_train.recipe.modules import MODULES
from vita_train.recipe.tower import TowerSpec, is_unused
from vita_train.weights.export import listing
from vita_train.weights.formats.config_check import (
    llava_stated,
    llm_stated,
    vita_differences,
    vita_stated,
)
from vita_train.weights.formats.import_report import ImportReport, Row, Status
from vita_train.weights.formats.known import is_kept_aside, reason_to_leave
from vita_train.weights.formats.location import TensorLocation
from vita_train.weights.formats.release_config import description_faults
from vita_train.weights.formats.source import Source
from vita_train.weights.formats.speech_output import speech_stated
from vita_train.weights.formats.stated import Settings, Stated, contradictions, differences_to_note
from vita_train.weights.formats.tensor_locations import flat_location, vita_location
from vita_train.weights.formats.train_yaml import encoder_stated
from vita_train.weights.load import first_names
from vita_train.weights.pretrained import IMPORT_FORMAT, IMPORT_MANIFEST
from vita_train.weights.save import SHARD_BYTES, shard_name, split_by_size
from vita_train.weights.staging import atomic_directory, write_json
from vita_train.weights.stream import StoredTensor, checked, write_tensors

#: Tensors of an import that belong to none of our modules.
UNUSED = "unused.safetensors"


@dataclass(frozen=True)
class ImportPlan:
    """What an import would write."""

    source: Source
    report: ImportReport
    modules: dict[str, dict[str, StoredTensor]]
    """Tensors of each module, by our names."""
    parameters: dict[str, int]
    unused: dict[str, StoredTensor]
    """Tensors that nothing reads and an export writes back, by the layout's names."""


@dataclass(frozen=True)
class _Wanted:
    """One tensor of ours and where it should lie."""

    module: str
    name: str
    place: TensorLocation
    shape: tuple[int, ...]
    floating: bool

    @property
    def shape_there(self) -> tuple[int, ...]:
        """Shape of the tensor that holds it, or holds it as one of equal parts."""
        return (
            (self.shape[0] * self.place.parts, *self.shape[1:])
            if self.place.parts > 1
            else self.shape
        )


def plan_import(
    source: Source, spec: ModelSpec, names: Collection[str] = (), audio: AudioSpec | None = None
) -> ImportPlan:
    """Compare a source with the modules of a specification, tensor by tensor; no data are read.

    Args:
        source: an opened checkpoint.
        spec: what the modules are to be like.
        names: modules to import; empty takes all that the source has a tensor of. What belongs to
            others is left out without complaint.
        audio: how the recipe reads audio; its defaults when none.

    Raises:
        UserError: a name is no module of the layout.
    """
    layout = source.layout
    if unknown := sorted(set(names) - set(layout.modules)):
        raise UserError(
            f"a {layout.title} has no {', '.join(unknown)}",
            code="VT-USE-118",
            where="--modules",
            remedy=f"it may have {', '.join(layout.modules)}",
        )
    report = ImportReport(
        str(source.path), layout.name, notes=list(source.notes), problems=list(source.problems)
    )
    report.rows += [Row("left out", name, detail="outside the prefix") for name in source.outside]
    stored = _canonical(source, report)
    built = _meta_modules(spec, source, stored)
    if absent := sorted(set(names) - set(built)):
        raise UserError(
            f"{', '.join(absent)} cannot be imported: recipe and source do not both have it",
            code="VT-USE-119",
            where="--modules",
            remedy=f"both may have {', '.join(built)}",
        )
    wanted, tied, placeless = _wanted(source, built, spec)
    present = {layout.module_of(name) for name in stored} | {
        want.module
        for locations in wanted.values()
        for want in locations
        if want.place.name in stored
    }
    # In the order of MODULES, whichever order the source's names have
    chosen = [name for name in MODULES if name in (names or present) and name in built]
    if not chosen:
        report.problems.append(f"it holds no tensor of {', '.join(layout.modules)}")
    report.problems += [
        f"{name} has no place in a {layout.title}"
        for module, name in placeless.items()
        if module in chosen
    ]
    _explain(source, stored, wanted, tied, names, chosen, report, spec.vision)
    if layout.place is vita_location:
        report.problems += vita_differences(spec, chosen)
    stated = _stated(source, spec, built, Settings(spec, audio or AudioSpec()))
    report.problems += contradictions(stated, chosen)
    report.notes += differences_to_note(stated, chosen)
    if layout.described and "vision" in chosen:
        report.problems += description_faults(source.path / layout.described, spec.vision)
    modules: dict[str, dict[str, StoredTensor]] = {name: {} for name in chosen}
    # A shape may be wrong elsewhere: nothing is cut into parts before all of them fit
    if not report.faults:
        for want in (
            want for locations in wanted.values() for want in locations if want.module in modules
        ):
            tensor = source.tensors[stored[want.place.name]]
            # A slice of the stored bytes: joined tensors, queries with keys and values say, are not
            # read whole
            modules[want.module][want.name] = tensor.share(want.place.part, want.place.parts)
    counts = {
        name: sum(parameter.numel() for parameter in built[name].parameters()) for name in chosen
    }
    unused = {
        canonical: source.tensors[name]
        for canonical, name in stored.items()
        if canonical not in wanted and is_kept_aside(canonical)
    }
    return ImportPlan(source, report, modules, counts, unused)


def _stated(
    source: Source, spec: ModelSpec, built: nn.ModuleDict, settings: Settings
) -> list[Stated]:
    """Return every setting that came with the weights, beside the recipe's."""
    stated: list[Stated] = []
    if source.config and "llm" in built:
        text = source.config.get("text_config", source.config)
        stated += llm_stated(text, built["llm"].config, source.layout.name)
    if source.config and source.layout.name in ("vita", "vita-stage"):
        stated += vita_stated(source.config, spec)
    if source.layout.name in ("llava", "llava-hf"):
        stated += llava_stated(source.config, spec)
    if source.train_yaml:
        stated += encoder_stated(source.train_yaml, settings)
    if source.speech_output:
        stated += speech_stated(source.speech_output, settings)
    return stated


def write_import(plan: ImportPlan, out: Path, *, shard_bytes: int = SHARD_BYTES) -> dict[str, Any]:
    """Write the modules of a plan and return the content of ``import.json``.

    Raises:
        CheckpointError: the ledger has faults, values are not finite, or a source file changed
            while it was read.
        UserError: ``out`` holds something else, or the disk is full.
    """
    plan.report.check()
    with atomic_directory(out, IMPORT_MANIFEST, "import") as staging_dir:
        written = write_modules(plan, staging_dir, shard_bytes=shard_bytes)
        plan.report.write(staging_dir / "ledger.json")
        if plan.unused:
            write_tensors(staging_dir / UNUSED, plan.unused, {"format": "pt"})
        summary = {
            "format": IMPORT_FORMAT,
            "version": vita_train.__version__,
            "source": plan.source.path.name,
            "layout": plan.source.layout.name,
            "terms": plan.source.terms,
            "modules": {
                name: {"files": files, "parameters": plan.parameters[name]}
                for name, files in written.items()
            },
            "files": listing(staging_dir),
        }
        write_json(staging_dir / IMPORT_MANIFEST, summary)
    return summary


def write_modules(
    plan: ImportPlan, folder: Path, *, shard_bytes: int = SHARD_BYTES
) -> dict[str, list[str]]:
    """Write the modules of a plan whose ledger has no faults into a folder; return the names of
    each one's files.

    Raises:
        CheckpointError: a source file changed while it was read, or values are not finite.
    """
    written: dict[str, list[str]] = {}
    for module, tensors in plan.modules.items():
        shards = split_by_size(
            {name: tensor.nbytes for name, tensor in tensors.items()}, shard_bytes
        )
        written[module] = [shard_name(module, index, len(shards)) for index in range(len(shards))]
        for file, shard in zip(written[module], shards, strict=True):
            whole = {
                name: checked(tensors[name], f"{module}.{name}", str(plan.source.path))
                for name in shard
            }
            write_tensors(folder / file, whole, {"format": "pt", "module": module})
    return written


def _canonical(source: Source, report: ImportReport) -> dict[str, str]:
    """Return {name as the layout has it: name as stored}; what is no part of the modules goes into
    the ledger."""
    stored: dict[str, str] = {}
    for name in source.tensors:
        canonical = source.layout.canonical(name)
        if canonical is None:
            report.rows.append(
                Row("left out", name, detail="no part of what this layout is read for")
            )
        elif canonical in stored:
            report.rows.append(
                Row("unexpected", name, detail=f"it stands there as {stored[canonical]} too")
            )
        else:
            stored[canonical] = name
    return stored


def _meta_modules(spec: ModelSpec, source: Source, stored: Mapping[str, str]) -> nn.ModuleDict:
    """Build the layout's modules without memory. A recogniser has as many outputs as its weights
    say."""
    names = source.layout.modules
    if source.layout.place is flat_location:
        there = {name.partition(".")[0] for name in stored}
        # An export of ours holds some modules; parts that it lacks are not missing
        names = tuple(name for name in names if name in there)
    if not spec.audio_adapter.prompt_tokens:
        names = tuple(name for name in names if name != "audio_prompt")
    head = (
        source.tensors[stored["ctc_head.weight"]].info.shape if "ctc_head.weight" in stored else ()
    )
    # At least 2, the fewest a recogniser is built with: a wrong shape is for the report to name
    with torch.device("meta"):
        return build_modules(spec, names, ctc_vocab_size=max(2, *head[:1]) if head else 0)


def _wanted(
    source: Source, built: nn.ModuleDict, spec: ModelSpec
) -> tuple[dict[str, list[_Wanted]], dict[str, str], dict[str, str]]:
    """Return what each of their tensors holds of ours, second names of tied tensors with their
    first names, and of each module the first tensor that the layout has no place for."""
    wanted: dict[str, list[_Wanted]] = {}
    tied: dict[str, str] = {}
    placeless: dict[str, str] = {}
    for module in built:
        first = first_names(built[module])
        for name, tensor in built[module].state_dict().items():
            location = source.layout.place(module, name, spec)
            if location is None:
                placeless.setdefault(module, f"{module}.{name}")
            # A tied tensor stands in a file once, under its first name here; theirs may also have
            # the second
            elif first.get(name, name) != name:
                tied[location.name] = first[name]
            else:
                wanted.setdefault(location.name, []).append(
                    _Wanted(module, name, location, tuple(tensor.shape), tensor.is_floating_point())
                )
    return wanted, tied, placeless


def _explain(
    source: Source,
    stored: Mapping[str, str],
    wanted: Mapping[str, list[_Wanted]],
    tied: Mapping[str, str],
    names: Collection[str],
    chosen: Collection[str],
    report: ImportReport,
    tower: TowerSpec,
) -> None:
    """Write a row for every tensor of the source, and for every one that is missing."""
    layout = source.layout
    for canonical, name in stored.items():
        info = source.tensors[name].info
        if canonical in tied:
            report.rows.append(
                Row("left out", name, "llm", detail=f"the same as {tied[canonical]} in the recipe")
            )
        elif canonical not in wanted:
            # Only where somebody has chosen; else what no module has a place for is a fault
            others = names and layout.module_of(canonical) not in names
            reason = "not asked for" if others else reason_to_leave(canonical)
            inner = canonical.removeprefix(layout.tower)
            if layout.tower and inner != canonical and is_unused(inner, tower):
                reason = "behind the block that the features are taken from"
            report.rows.append(
                Row(
                    "left out" if reason else "unexpected",
                    name,
                    detail=reason or f"{_shape(info.shape)}, and no module has a tensor for it",
                )
            )
        else:
            # All that one tensor holds of ours are equal parts: the first stands for them
            first = wanted[canonical][0]
            ours = ", ".join(want.name for want in wanted[canonical])
            status: Status = "used" if ours == name else "renamed"
            detail = ""
            if first.module not in chosen:
                status, detail = "left out", "not asked for"
            elif first.shape_there != info.shape:
                status, detail = (
                    "shape",
                    f"{_shape(info.shape)} there, {_shape(first.shape_there)} in the recipe",
                )
            elif first.floating != info.floating:
                status, detail = (
                    "kind",
                    f"{info.dtype} there, {'real' if first.floating else 'whole'} numbers here",
                )
            report.rows.append(Row(status, name, first.module, ours, detail))
    report.rows += [
        Row(
            "missing",
            name,
            wants[0].module,
            ", ".join(want.name for want in wants),
            _shape(wants[0].shape_there),
        )
        for name, wants in wanted.items()
        if name not in stored and wants[0].module in chosen
    ]


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
