"""The language model: Qwen2 from transformers.

transformers is imported where a model is built: it takes seconds, and stages of speech alone need none of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vita_train.errors import CheckpointError
from vita_train.models.packed_attention import register_varlen
from vita_train.recipe.model import LlmSpec

if TYPE_CHECKING:
    from transformers import Qwen2Config
    from transformers.models.qwen2.modeling_qwen2 import Qwen2ForCausalLM


def qwen2_config(spec: LlmSpec) -> Qwen2Config:
    """Return transformers' configuration for a specification. The vocabulary is never resized afterwards."""
    from transformers import Qwen2Config

    register_varlen()
    config = Qwen2Config(
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        num_hidden_layers=spec.num_layers,
        num_attention_heads=spec.num_heads,
        num_key_value_heads=spec.num_kv_heads,
        intermediate_size=spec.intermediate_size,
        max_position_embeddings=spec.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": spec.rope_theta},
        rms_norm_eps=spec.rms_norm_eps,
        tie_word_embeddings=spec.tie_embeddings,
        use_cache=False,
    )
    config._attn_implementation = spec.attention
    return config


def build_llm(spec: LlmSpec) -> Qwen2ForCausalLM:
    """Return a randomly initialised language model."""
    from transformers.models.qwen2.modeling_qwen2 import Qwen2ForCausalLM

    return Qwen2ForCausalLM(qwen2_config(spec))


def load_llm(spec: LlmSpec, source: str) -> Qwen2ForCausalLM:
    """Return the language model of a directory or hub name (safetensors only), checked against the specification.

    Raises:
        CheckpointError: nothing readable is there, or its shape is not the one the recipe states.
    """
    from transformers.models.qwen2.modeling_qwen2 import Qwen2ForCausalLM

    found = _configuration(source)
    wanted = qwen2_config(spec)
    fields = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
              "intermediate_size", "tie_word_embeddings")
    wrong = [f"{name} is {getattr(found, name)} there and {getattr(wanted, name)} in the recipe"
             for name in fields if getattr(found, name) != getattr(wanted, name)]
    if wrong:
        raise CheckpointError("; ".join(wrong), where=source, remedy="set model.llm to the shape of the source")
    try:
        return Qwen2ForCausalLM.from_pretrained(source, config=wanted, dtype=torch.float32, use_safetensors=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"weights cannot be read: {error}".splitlines()[0], where=source) from error


def _configuration(source: str) -> Qwen2Config:
    from transformers import Qwen2Config

    # transformers takes its own defaults where a directory holds no configuration.
    nothing = CheckpointError("no Qwen2 configuration can be read", where=source,
                              remedy="give a directory with config.json and *.safetensors")
    try:
        values, _ = Qwen2Config.get_config_dict(source)
        if values.get("model_type") != "qwen2":
            raise nothing
        return Qwen2Config.from_dict(values)
    except (OSError, ValueError, TypeError) as error:
        raise nothing from error


def decode(llm: Any, embeds: Tensor, position_ids: Tensor, mask: Tensor | None,
           cache: Any = None, **packing: Any) -> Tensor:
    """Return the last hidden states (B, L, D), final norm applied.

    Args:
        llm: a Qwen2ForCausalLM, wrapped or not.
        embeds: (B, L, D) input embeddings.
        position_ids: (B, L) rotary positions.
        mask: (B, 1, L, keys) bool, True where a query may look; None is plain causal attention.
        cache: transformers' cache to read and extend; none keeps nothing. Without an explicit mask a cache makes
            packed documents see each other, so both are always passed by hand.
        packing: ``cu_seq_lens_q`` and ``max_length_q`` for attention over packed documents without a mask.
    """
    output = llm.model(
        inputs_embeds=embeds,
        attention_mask={"full_attention": mask},
        position_ids=position_ids,
        past_key_values=cache,
        use_cache=cache is not None,
        **packing,
    )
    return output.last_hidden_state
