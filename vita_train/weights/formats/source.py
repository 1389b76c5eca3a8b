"""What is given to an import: a directory or a file, its layout recognised, its tensors listed but
not read."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vita_train.errors import CheckpointError, UserError
from vita_train.weights.formats.import_report import shown
from vita_train.weights.formats.known import IMPORT_LAYOUTS, Layout, layout_of
from vita_train.weights.formats.llava_names import PROJECTOR_FOLDER, TOWER_FOLDER
from vita_train.weights.formats.lora_directory import is_lora_directory, read_lora_directory
from vita_train.weights.formats.shards import read_json, read_shards
from vita_train.weights.formats.speech_directory import (
    is_speech_directory,
    read_speech_directory,
    read_train_yaml,
)
from vita_train.weights.formats.speech_names import SPEECH_MODULES
from vita_train.weights.formats.speech_output import (
    FOLDER,
    is_speech_output,
    read_codec_file,
    read_speech_output,
)
from vita_train.weights.formats.train_yaml import FILE as TRAIN_YAML
from vita_train.weights.pickles import read_pickle
from vita_train.weights.pretrained import EXPORT_MANIFEST
from vita_train.weights.stream import StoredTensor, tensor_in_memory

#: Files that stages of the public code leave, as its code and its documents name them.
_STAGE_FILES = ("mm_projector.bin", "audio_adpter.bin", "audio_projector.bin")
_PICKLES = (".bin", ".pt", ".pth")
#: xtuner's folders beside the language model.
_BESIDE = (TOWER_FOLDER, PROJECTOR_FOLDER)
#: Files of that ending that hold no weights.
_NO_WEIGHTS = ("training_args.bin",)
#: Names in whose beginnings a prefix is looked for.
_TRIED = 50


@dataclass(frozen=True)
class Source:
    """Tensors of a checkpoint in someone's layout."""

    path: Path
    layout: Layout
    tensors: dict[str, StoredTensor]
    config: dict[str, Any] = field(default_factory=dict)
    """Its config.json, if it has one."""
    outside: tuple[str, ...] = ()
    """Names that do not begin with the prefix that was asked for."""
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    terms: str = ""
    """Terms of its owners that whoever uses it has to accept."""
    train_yaml: dict[str, Any] = field(default_factory=dict)
    """Settings of its speech encoder, if it has them."""
    speech_output: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Settings of its codec and its speech decoder, by module."""


def open_source(
    path: Path,
    layout: str = "",
    base: Path | None = None,
    prefix: str = "",
    modules: Collection[str] = (),
) -> Source:
    """Recognise a source and list its tensors.

    Args:
        path: a directory or a file.
        layout: a key of IMPORT_LAYOUTS; recognised by what is there when empty.
        base: directory of the weights that a LoRA adapter belongs to.
        prefix: what stands before every name that counts; other tensors are left out.
        modules: what is to be imported; files that hold nothing of it are not read. All when empty.

    Raises:
        UserError: nothing is there, or its layout is not known.
        CheckpointError: a file is damaged or not to be trusted.
    """
    if layout and layout not in IMPORT_LAYOUTS:
        raise UserError(
            f"unknown layout {layout!r}",
            code="VT-USE-121",
            where="--layout",
            remedy=f"layouts are {', '.join(IMPORT_LAYOUTS)}",
        )
    path = Path(path).expanduser().absolute()
    if path.is_file():
        return _file(path, layout, prefix)
    if not path.is_dir():
        raise UserError(
            "there is no such file or directory",
            code="VT-USE-122",
            where=str(path),
            remedy="download the checkpoint first, then give its directory",
        )
    # The order of these questions matters: an adapter's folder may hold a projector, a release all
    # of it
    if is_lora_directory(path) and layout in ("", "vita", "llm"):
        return _adapted(path, layout, base)
    if base is not None:
        raise UserError(
            "an adapter alone has a base",
            code="VT-USE-123",
            where=f"--base {base}",
            remedy=f"{path} holds none; drop it",
        )
    if is_speech_directory(path) and layout in ("", "audio-encoder"):
        tensors, settings, notes = read_speech_directory(path, modules)
        speech = IMPORT_LAYOUTS["audio-encoder"]
        within, outside = _within(prefix, _listed(tensors), path)
        return Source(
            path,
            speech,
            within,
            outside=outside,
            notes=notes,
            terms=speech.terms,
            train_yaml=settings,
        )
    if (path / PROJECTOR_FOLDER).is_dir() and layout in ("", "xtuner"):
        return _of_xtuner(path)
    # Weights in safetensors count before pickles of the same folder
    if not any(path.glob("*.safetensors")):
        files = [path / name for name in _STAGE_FILES if (path / name).is_file()]
        if len(files) > 1 and layout in ("", "vita-stage"):
            return _of_stage(path, files, prefix)
        if files:
            return _file(files[0], layout, prefix)
        if is_speech_output(path) and layout in ("", "vita-tts"):
            spoken = IMPORT_LAYOUTS["vita-tts"]
            return _with_speech_output(Source(path, spoken, {}, terms=spoken.terms), path, modules)
    return _release(path, layout, prefix, modules)


def _release(path: Path, layout: str, prefix: str, modules: Collection[str]) -> Source:
    """Return the safetensors files of a directory, and of VITA's release the speech parts in its
    folders."""

    def wanted(names: Collection[str]) -> Collection[str]:
        name = layout or layout_of(name.removeprefix(prefix) for name in names)
        if not name or not modules:
            return names
        known = IMPORT_LAYOUTS[name]
        return [
            name
            for name in names
            if known.module_of(known.canonical(name.removeprefix(prefix)) or "") in modules
        ]

    shards, outside = _within(prefix, read_shards(path, wanted), path)
    config = _config(path)
    found = _layout(layout or layout_of(shards), path, shards)
    # An export of ours says under which terms its weights stand: none, where nobody else's were
    # imported.
    ours = read_json(path / EXPORT_MANIFEST) if (path / EXPORT_MANIFEST).is_file() else None
    terms = found.terms if ours is None else str(ours.get("terms", ""))
    source = Source(path, found, shards, config, outside, terms=terms)
    if found.name != "vita":
        return source
    if (path / FOLDER).is_dir() and (not modules or set(modules) & set(SPEECH_MODULES)):
        source = _with_speech_output(source, path / FOLDER, modules)
    encoders = sorted(folder.parent for folder in path.glob(f"*/{TRAIN_YAML}"))
    if len(encoders) == 1:
        source = replace(source, train_yaml=read_train_yaml(encoders[0]))
    elif any(name.startswith("model.audio_encoder.") for name in shards):
        source.notes.append(
            f"there is no folder with the audio encoder's {TRAIN_YAML}: its settings could not be "
            "compared"
            if not encoders
            else f"{len(encoders)} folders hold a {TRAIN_YAML}; none was compared"
        )
    return source


def _of_xtuner(path: Path) -> Source:
    """Return the language model, the tower and the projector of xtuner's folders, as far as they
    are there: what a stage did not train it may not have written."""
    tensors: dict[str, StoredTensor] = {}
    for folder, start in ((path, ""), *((path / name, f"{name}/") for name in _BESIDE)):
        tensors |= {f"{start}{name}": tensor for name, tensor in _in_folder(folder).items()}
    config = _config(path)
    absent = [name for name in _BESIDE if not any(key.startswith(f"{name}/") for key in tensors)]
    notes = [f"there is no {name}" for name in absent]
    return Source(path, IMPORT_LAYOUTS["xtuner"], tensors, config, notes=notes)


def _config(folder: Path) -> dict[str, Any]:
    """Return a folder's config.json; empty where there is none."""
    file = folder / "config.json"
    return read_json(file) if file.is_file() else {}


def _in_folder(folder: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a folder's safetensors files or, where it has none, of its pickles."""
    if any(folder.glob("*.safetensors")):
        return read_shards(folder)
    pickles = [path for path in sorted(folder.glob("*.bin")) if path.name not in _NO_WEIGHTS]
    return {name: tensor for path in pickles for name, tensor in _listed(read_pickle(path)).items()}


def _of_stage(path: Path, files: list[Path], prefix: str) -> Source:
    """Return the files that a stage left, as one."""
    sources = [_file(file, "vita-stage", prefix) for file in files]
    tensors = {name: tensor for source in sources for name, tensor in source.tensors.items()}
    outside = tuple(name for source in sources for name in source.outside)
    config = _config(path)
    found = IMPORT_LAYOUTS["vita-stage"]
    return Source(path, found, tensors, config, outside, terms=found.terms)


def _with_speech_output(source: Source, folder: Path, modules: Collection[str]) -> Source:
    tensors, settings, notes = read_speech_output(folder, modules)
    return replace(
        source,
        tensors=source.tensors | _listed(tensors),
        notes=source.notes + notes,
        speech_output=settings,
    )


def _file(path: Path, layout: str, prefix: str) -> Source:
    if path.suffix not in _PICKLES:
        raise UserError(
            "is no file of a known kind",
            code="VT-USE-124",
            where=str(path),
            remedy=f"give a directory, or a file that ends in {', '.join(_PICKLES)}",
        )
    if layout == "vita-tts":
        found = IMPORT_LAYOUTS[layout]
        return Source(path, found, _listed(read_codec_file(path)), terms=found.terms)
    tensors, outside = _within(prefix, _listed(read_pickle(path)), path)
    if not layout:
        layout = next(
            (
                found
                for mark, found in (("mm_projector.", "mm-projector"), ("adpter.", "audio-adapter"))
                if any(mark in name for name in tensors)
            ),
            "",
        ) or layout_of(tensors)
    notes = []
    if layout == "audio-adapter" and not any("running_" in name for name in tensors):
        notes.append(
            "files of this kind hold parameters alone: buffers of the adapter (statistics of a "
            "BatchNorm) are missing from them. An adapter with LayerNorm has none; for one with "
            "BatchNorm import the whole checkpoint"
        )
    known = _layout(layout, path, tensors)
    return Source(path, known, tensors, outside=outside, notes=notes, terms=known.terms)


def _adapted(path: Path, layout: str, base: Path | None) -> Source:
    """Return a base with the adapter of a directory merged, under the base's own terms."""
    found = read_lora_directory(path, base)
    own = layout_of(found.base_names)
    beside = any(
        name.startswith(("model.mm_projector.", "model.audio_encoder.", "model.vision_tower."))
        for name in found.tensors
    )
    return Source(
        path,
        _layout(layout or ("vita" if beside else own), path, found.tensors),
        found.tensors,
        found.config,
        (),
        found.notes,
        found.problems,
        _layout(own, path, found.tensors).terms,
    )


def _layout(name: str, path: Path, names: Iterable[str]) -> Layout:
    if not name:
        prefix = _prefix(names)
        raise CheckpointError(
            "holds tensors of a layout that is not known",
            code="VT-WEIGHTS-052",
            where=str(path),
            remedy=f"names begin with {shown(prefix)}: give --prefix {shown(prefix)}"
            if prefix
            else f"give --layout, one of {', '.join(IMPORT_LAYOUTS)}",
        )
    return IMPORT_LAYOUTS[name]


def _prefix(names: Iterable[str]) -> str:
    """Return what stands before names of a layout that is known, as a wrapper of the model leaves
    it."""
    given = list(names)
    starts = {
        name[: location + 1]
        for name in given[:_TRIED]
        for location, letter in enumerate(name)
        if letter == "."
    }
    return next(
        (
            start
            # The shortest that will do: a longer one would cut off part of the layout's own names
            for start in sorted(starts, key=len)
            if layout_of(name.removeprefix(start) for name in given if name.startswith(start))
        ),
        "",
    )


def _within(
    prefix: str, tensors: Mapping[str, StoredTensor], path: Path
) -> tuple[dict[str, StoredTensor], tuple[str, ...]]:
    """Return tensors by what follows a prefix, and the names that do not begin with it."""
    within = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    if not within:
        raise UserError(
            f"no tensor's name begins with {prefix!r}",
            code="VT-USE-131",
            where=str(path),
            remedy=f"the first is {shown(next(iter(tensors), 'none'))}",
        )
    return within, tuple(name for name in tensors if not name.startswith(prefix))


def _listed(tensors: dict[str, Tensor]) -> dict[str, StoredTensor]:
    return {name: tensor_in_memory(tensor) for name, tensor in tensors.items()}
