"""config.json of the released VITA-1.5 layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from vita_train.data.prepare.tokenizer import load_tokenizer
from vita_train.errors import CheckpointError
from vita_train.models.language.decoder import llm_config
from vita_train.recipe.schema import Recipe

#: Folder of the speech encoder, within an export.
ENCODER_FOLDER = "audio-encoder"
#: What the public code knows the tower by where a recipe names no source: it looks for "internvit".
_TOWER = "OpenGVLab/InternViT-300M-448px"
#: Class and ``model_type`` of the public code for each family that it stores as transformers does.
#: Mixtral's experts
#: lie one by one in the public layout, and joined in transformers' own; Llama the public code does
#: not know.
CLASSES: dict[str, tuple[str, str]] = {
    "qwen2p5_instruct": ("VITAQwen2ForCausalLM", "vita-Qwen2"),
    "qwen2p5_fo_instruct": ("VITAFOQwen2ForCausalLM", "vita-fo-Qwen2"),
    "nemo": ("VITAMistralForCausalLM", "vita-Mistral"),
}

#: Fields of the language model's configuration, as transformers has them.
_LANGUAGE = (
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
    "attention_dropout",
    "initializer_range",
)


def vita_config(modules: nn.ModuleDict, recipe: Recipe, tokenizer_dir: Path) -> dict[str, Any]:
    """Return the released fields: the language model's, and those of the tower, the projector and
    the speech side.

    Args:
        modules: that are exported.
        recipe: of the run.
        tokenizer_dir: the tokenizer's, whose ids are stated.

    Raises:
        CheckpointError: the public code has no model of the language model's family.
    """
    model = recipe.model
    if model.llm.family not in CLASSES:
        raise CheckpointError(
            f"the released layout holds no model of family {model.llm.family}",
            code="VT-WEIGHTS-057",
            where=recipe.name,
            remedy="export to own or hf, which take every model",
        )
    language = llm_config(model.llm)
    name, model_type = CLASSES[model.llm.family]
    tokenizer = load_tokenizer(str(tokenizer_dir))
    length = max((stage.batch.seq_len for stage in recipe.stages.values()), default=0)
    fields: dict[str, Any] = {
        "architectures": [name],
        "model_type": model_type,
        # dtype since transformers 5; the public code is of the time before
        "torch_dtype": model.dtype,
        "rope_theta": model.llm.rope_theta,
        "use_cache": True,
        "use_sliding_window": False,
        "tokenizer_padding_side": "right",
        "tokenizer_model_max_length": length or model.llm.max_positions,
        **{field: getattr(language, field) for field in _LANGUAGE if hasattr(language, field)},
    }
    for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if (number := getattr(tokenizer, token, None)) is not None:
            fields[token] = number
    if model.llm.head_dim is not None:
        fields["head_dim"] = model.llm.head_dim
    if "vision" in modules and "projector" in modules:
        fields |= {
            "mm_vision_tower": _tower_name(model.vision.source),
            "mm_hidden_size": model.vision.feature_size,
            "mm_projector_type": model.projector.kind,
            "use_mm_proj": True,
            "use_s2": False,
            "image_aspect_ratio": "square",
            "tune_mm_mlp_adapter": False,
            "freeze_mm_mlp_adapter": False,
            "unfreeze_vision_tower": False,
            "mm_projector_lr": None,
        }
    if "audio_encoder" in modules:
        fields |= {
            "mm_audio_encoder": ENCODER_FOLDER,
            "tune_audio_mlp_adapter": False,
            "freeze_audio_encoder": True,
            "freeze_audio_encoder_adapter": True,
            "audio_prompt_finetune": "audio_prompt" in modules,
            "audio_state_predictor_tuning": False,
        }
    if "audio_prompt" in modules:
        fields["audio_prompt_num"] = model.audio_adapter.prompt_tokens
    return fields


def _tower_name(source: str | None) -> str:
    """Return the full name of a tower that comes from a hub; of one from a place on this machine
    its last part, as far as the public code knows it by that."""
    name = source or ""
    if name.startswith(("/", "~", ".")) or "\\" in name:
        name = Path(name).name
    return name if "internvit" in name.lower() else _TOWER
