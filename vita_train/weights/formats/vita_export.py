"""A model in the layout of the released VITA-1.5 checkpoint, its misspelling ``adpter``
included."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from vita_train.errors import CheckpointError
from vita_train.models.build import cast_parameters
from vita_train.recipe.model import ModelSpec
from vita_train.recipe.schema import Recipe
from vita_train.storage.base import is_local, local_path
from vita_train.weights.export import check_same, copy_tokenizer, model_dtype
from vita_train.weights.export_layouts import ExportLayout, register_export_layout
from vita_train.weights.formats.config_check import vita_differences
from vita_train.weights.formats.exporting import read_back, summarise
from vita_train.weights.formats.importing import UNUSED
from vita_train.weights.formats.shards import INDEX
from vita_train.weights.formats.speech_directory import write_cmvn
from vita_train.weights.formats.speech_names import SPEECH_MODULES
from vita_train.weights.formats.speech_output import FOLDER, speech_stated, write_speech_output
from vita_train.weights.formats.stated import Settings
from vita_train.weights.formats.tensor_locations import (
    VITA_MODULES,
    LocateTensor,
    vita_location,
    vita_owner,
)
from vita_train.weights.formats.train_yaml import FILE as TRAIN_YAML
from vita_train.weights.formats.train_yaml import train_yaml
from vita_train.weights.formats.vita_config import ENCODER_FOLDER, vita_config
from vita_train.weights.load import first_names
from vita_train.weights.pretrained import EXPORT_MANIFEST
from vita_train.weights.save import SHARD_BYTES, shard_name, split_by_size
from vita_train.weights.staging import atomic_directory, write_json
from vita_train.weights.stream import (
    StoredTensor,
    joined,
    tensor_in_memory,
    tensors_in,
    write_tensors,
)

#: Where an export is imported again, within the directory that has no name yet.
AGAIN = ".again"


def write_vita(
    modules: nn.ModuleDict,
    recipe: Recipe,
    out: Path,
    unused: Mapping[str, Tensor] | None = None,
    *,
    shard_bytes: int = SHARD_BYTES,
) -> list[str]:
    """Write the released layout: weights and config.json, the speech encoder's own directory, and
    the codec and the speech decoder in theirs; return the modules that it has a place for.

    Args:
        modules: what is written; others than the layout has a place for are left out.
        recipe: of the run.
        out: directory, with the tokenizer in it.
        unused: what an import kept that no module of ours has, by the layout's names.
        shard_bytes: above which the weights are split over files.

    Raises:
        CheckpointError: the language model is missing or of another family, or a tensor has no
            place.
    """
    kept = nn.ModuleDict({name: module for name, module in modules.items() if name in VITA_MODULES})
    if "llm" not in kept:
        raise CheckpointError(
            "the released layout holds a language model, and this run has none",
            code="VT-WEIGHTS-056",
            remedy="train a stage with llm, or export to own",
        )
    fields = vita_config(kept, recipe, out)
    settings = Settings(recipe.model, recipe.data.audio)
    unread = _unread(recipe.model, modules, unused or {})
    tensors = theirs(kept, vita_location, recipe.model)
    tensors |= {
        name: tensor_in_memory(unread[name])
        for name in unread
        if vita_owner(name) not in SPEECH_MODULES
    }
    write_sharded(tensors, out, shard_bytes)
    write_json(out / "config.json", fields)
    if "audio_encoder" in kept:
        write_encoder_directory(kept, settings, out / ENCODER_FOLDER)
    spoken = nn.ModuleDict({name: modules[name] for name in SPEECH_MODULES if name in modules})
    if spoken:
        stored = theirs(spoken, vita_location, recipe.model)
        loaded = {name: tensor.load() for name, tensor in stored.items()}
        loaded |= {name: unread[name] for name in unread if vita_owner(name) in SPEECH_MODULES}
        write_speech_output(out / FOLDER, loaded, settings, list(spoken))
    return [*kept, *spoken]


def write_encoder_directory(modules: nn.ModuleDict, settings: Settings, folder: Path) -> None:
    """Write the directory that the public code builds its speech encoder from: its settings, the
    statistics of its features, and its weights with the adapter's."""
    folder.mkdir(parents=True)
    speech = nn.ModuleDict(
        {name: modules[name] for name in ("audio_encoder", "audio_adapter") if name in modules}
    )
    start = "model.audio_encoder."
    stored = theirs(speech, vita_location, settings.model)
    torch.save(
        {name.removeprefix(start): tensor.load() for name, tensor in stored.items()},
        folder / "final.pt",
    )
    (folder / TRAIN_YAML).write_text(
        yaml.safe_dump(train_yaml(settings), sort_keys=False), encoding="utf-8"
    )
    cmvn: Any = modules["audio_encoder"].global_cmvn
    write_cmvn(folder / "global_cmvn", cmvn.mean, cmvn.istd)


def _unread(
    spec: ModelSpec, modules: nn.ModuleDict, unused: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the tensors that the public networks hold and never read: what an import kept, or
    zeros, which do as well."""
    found: dict[str, Tensor] = {}
    if "projector" in modules and spec.projector.kind in ("spp_v1", "spp_v2"):
        # v1 and v2 build linear_0 in the public code and never call it
        width, start = spec.vision.feature_size, "model.mm_projector.linear_0."
        found |= {f"{start}weight": torch.zeros(width, width), f"{start}bias": torch.zeros(width)}
    if "codec" in modules:
        width, start = spec.codec.global_dim, "codec/encoder.linear.0."
        found |= {f"{start}weight": torch.zeros(width, width), f"{start}bias": torch.zeros(width)}
    return {name: unused.get(name, found[name]) for name in found}


def theirs(
    modules: nn.ModuleDict, locate: LocateTensor, spec: ModelSpec
) -> dict[str, StoredTensor]:
    """Return the tensors of modules by their names in a layout; second names of tied ones are left
    out.

    Raises:
        CheckpointError: the layout has no place for one of them.
    """
    parts: dict[str, dict[int, StoredTensor]] = {}
    for module in modules:
        first = first_names(modules[module])
        for name, tensor in modules[module].state_dict().items():
            if first.get(name, name) != name:
                continue
            location = locate(module, name, spec)
            if location is None:
                raise CheckpointError(
                    f"{module}.{name} has no place in this layout",
                    code="VT-WEIGHTS-058",
                    remedy="export to own, which takes every model",
                )
            parts.setdefault(location.name, {})[location.part] = tensor_in_memory(tensor)
    # Parts may come in any order; the layout's is by number
    return {name: joined([found[part] for part in sorted(found)]) for name, found in parts.items()}


def write_sharded(
    tensors: dict[str, StoredTensor], out: Path, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write ``model.safetensors``, or shards with their index, as transformers names them."""
    shards = split_by_size({name: tensor.nbytes for name, tensor in tensors.items()}, shard_bytes)
    weight_map: dict[str, str] = {}
    for index, shard in enumerate(shards):
        file = shard_name("model", index, len(shards))
        write_tensors(out / file, {name: tensors[name] for name in shard}, {"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    if len(shards) > 1:
        write_json(
            out / INDEX,
            {
                "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())},
                "weight_map": dict(sorted(weight_map.items())),
            },
        )


def export_vita(
    modules: nn.ModuleDict,
    recipe: Recipe,
    corpus_dir: Path,
    out: Path,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write the released VITA-1.5 layout, import it again, and compare every tensor and the logits
    of a probe.

    The codec and the speech decoder keep the types they have; all else is cast to the recipe's.
    """
    unlike = _unlike(recipe, modules)
    modules = nn.ModuleDict({name: modules[name] for name in modules if name not in unlike})
    main = {name: module for name, module in modules.items() if name not in SPEECH_MODULES}
    cast_parameters(nn.ModuleDict(main), model_dtype(recipe))
    modules.eval()
    if wrong := vita_differences(recipe.model, list(modules), shapes=True):
        raise CheckpointError(
            f"the released layout cannot say that {wrong[0]}",
            code="VT-WEIGHTS-059",
            where=recipe.name,
            remedy="export to own, which takes every model",
        )
    with atomic_directory(out, EXPORT_MANIFEST, "export") as staging_dir:
        copy_tokenizer(corpus_dir, staging_dir)
        aside = kept_aside(recipe)
        written = write_vita(modules, recipe, staging_dir, aside, shard_bytes=shard_bytes)
        # Read back in the types that were written: a cast would hide a difference, or make one
        types = {name: next(modules[name].parameters()).dtype for name in written}
        # Below the export's own folder, so that both are on the same disk, and removed before it is
        # listed
        again = read_back(recipe, staging_dir, written, staging_dir / AGAIN, types)
        check_same(modules, again, out)
        shutil.rmtree(staging_dir / AGAIN)
        summarise(staging_dir, "vita", modules, written, recipe, unlike)


def _unlike(recipe: Recipe, modules: nn.ModuleDict) -> dict[str, str]:
    """Return the speech modules that compute something else than the public ones, with the
    reason: the layout has no way to say it."""
    stated = speech_stated({}, Settings(recipe.model, recipe.data.audio))
    reasons: dict[str, str] = {}
    for one in stated:
        if one.module in modules and not one.agrees:
            reasons.setdefault(one.module, f"{one.key} is {one.ours}, not {one.theirs}")
    if "speech_decoder" in modules:
        decoder: Any = modules["speech_decoder"]
        if decoder.prefix is not None and not decoder.has_prefix:
            reasons.setdefault("speech_decoder", "its prefix was not trained, and is not used")
    return reasons


def kept_aside(recipe: Recipe) -> dict[str, Tensor]:
    """Return what the imports that a recipe's weights come from kept of tensors that no module of
    ours has."""
    places = sorted({place for place in recipe.weights.values() if is_local(place)})
    files = [local_path(place) / UNUSED for place in places]
    return {
        name: tensor.load()
        for path in files
        if path.is_file()
        for name, tensor in tensors_in(path).items()
    }


register_export_layout(
    ExportLayout(
        "vita",
        "released VITA-1.5",
        "vita_train.weights.formats.vita_export:export_vita",
        keeps_types=SPEECH_MODULES,
        takes_shard_size=True,
    )
)
