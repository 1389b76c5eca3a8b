"""A model in the layout of the released VITA-1.5 checkpoint, its misspelling ``adpter``
included."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from torch import nn

from vita_train.errors import CheckpointError
from vita_train.models.build import cast_parameters
from vita_train.recipe.schema import Recipe
from vita_train.weights.export import check_same, copy_tokenizer, model_dtype
from vita_train.weights.export_layouts import ExportLayout, register_export_layout
from vita_train.weights.formats.config_check import vita_differences
from vita_train.weights.formats.exporting import read_back, summarise
from vita_train.weights.formats.shards import INDEX
from vita_train.weights.formats.tensor_locations import VITA_MODULES, LocateTensor, vita_location
from vita_train.weights.load import first_names
from vita_train.weights.pretrained import EXPORT_MANIFEST
from vita_train.weights.save import SHARD_BYTES, shard_name, split_by_size
from vita_train.weights.staging import atomic_directory, write_json
from vita_train.weights.stream import StoredTensor, joined, tensor_in_memory, write_tensors

#: Where an export is imported again, within the directory that has no name yet.
AGAIN = ".again"
#: Class and ``model_type`` of the public code for each family that it stores as transformers does.
#: Mixtral's experts
#: lie one by one in the public layout, and joined in transformers' own; Llama the public code does
#: not know.
_CLASSES: dict[str, tuple[str, str]] = {
    "qwen2p5_instruct": ("VITAQwen2ForCausalLM", "vita-Qwen2"),
    "qwen2p5_fo_instruct": ("VITAFOQwen2ForCausalLM", "vita-fo-Qwen2"),
    "nemo": ("VITAMistralForCausalLM", "vita-Mistral"),
}


def write_vita(
    modules: nn.ModuleDict, recipe: Recipe, out: Path, *, shard_bytes: int = SHARD_BYTES
) -> list[str]:
    """Write weights and config.json of the released layout; return the modules that it has a place
    for.

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
    if recipe.model.llm.family not in _CLASSES:
        raise CheckpointError(
            f"the released layout holds no model of family {recipe.model.llm.family}",
            code="VT-WEIGHTS-057",
            where=recipe.name,
            remedy="export to own or hf, which take every model",
        )
    write_sharded(theirs(kept, vita_location), out, shard_bytes)
    write_json(out / "config.json", _config(kept, recipe))
    return list(kept)


def theirs(modules: nn.ModuleDict, locate: LocateTensor) -> dict[str, StoredTensor]:
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
            location = locate(module, name)
            if location is None:
                raise CheckpointError(
                    f"{module}.{name} has no place in this layout",
                    code="VT-WEIGHTS-058",
                    remedy="export to own, which takes every model",
                )
            parts.setdefault(location.name, {})[location.part] = tensor_in_memory(tensor)
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


def _config(modules: nn.ModuleDict, recipe: Recipe) -> dict[str, Any]:
    """Return the released fields: the language model's, and those of the tower, the projector and
    the speech side."""
    model, language = recipe.model, modules["llm"].config
    name, model_type = _CLASSES[model.llm.family]
    fields: dict[str, Any] = {
        "architectures": [name],
        "model_type": model_type,
        "torch_dtype": model.dtype,
        "rope_theta": model.llm.rope_theta,
        "use_cache": True,
        "tokenizer_padding_side": "right",
        **{
            field: getattr(language, field)
            for field in (
                "vocab_size",
                "hidden_size",
                "num_hidden_layers",
                "num_attention_heads",
                "num_key_value_heads",
                "intermediate_size",
                "max_position_embeddings",
                "rms_norm_eps",
                "hidden_act",
                "tie_word_embeddings",
            )
        },
    }
    if model.llm.head_dim is not None:
        fields["head_dim"] = model.llm.head_dim
    if "vision" in modules and "projector" in modules:
        fields |= {
            "mm_vision_tower": "InternViT-300M-448px",
            "mm_hidden_size": model.vision.feature_size,
            "mm_projector_type": model.projector.kind,
            "use_mm_proj": True,
            "use_s2": False,
            "image_aspect_ratio": "square",
        }
    if "audio_encoder" in modules:
        fields |= {
            "mm_audio_encoder": "audio-encoder",
            "audio_prompt_finetune": "audio_prompt" in modules,
        }
    if "audio_prompt" in modules:
        fields["audio_prompt_num"] = model.audio_adapter.prompt_tokens
    return fields


def export_vita(modules: nn.ModuleDict, recipe: Recipe, corpus_dir: Path, out: Path) -> None:
    """Write the released VITA-1.5 layout, import it again, and compare every tensor and the logits
    of a probe."""
    cast_parameters(modules, model_dtype(recipe)).eval()
    if wrong := vita_differences(recipe.model, list(modules)):
        raise CheckpointError(
            f"the released layout cannot say that {wrong[0]}",
            code="VT-WEIGHTS-059",
            where=recipe.name,
            remedy="export to own, which takes every model",
        )
    with atomic_directory(out, EXPORT_MANIFEST, "export") as staging_dir:
        written = write_vita(modules, recipe, staging_dir)
        copy_tokenizer(corpus_dir, staging_dir)
        check_same(modules, read_back(recipe, staging_dir, written, staging_dir / AGAIN), out)
        shutil.rmtree(staging_dir / AGAIN)
        summarise(staging_dir, "vita", modules, written, recipe)


register_export_layout(
    ExportLayout("vita", "released VITA-1.5", "vita_train.weights.formats.vita_export:export_vita")
)
