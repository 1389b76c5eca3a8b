"""Families of language models: what the published model of each looks like, and how it is spoken
to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Family = Literal["qwen2p5_instruct", "qwen2p5_fo_instruct", "nemo", "mixtral-8x7b", "llama3-8b"]
FAMILIES: tuple[Family, ...] = get_args(Family)


@dataclass(frozen=True)
class Published:
    """What a recipe takes where it says nothing itself."""

    template: str
    """Conversation template that is shipped."""
    state_mode: str = "glyph"
    shape: dict[str, Any] = field(default_factory=dict)
    """Sizes of ``model.llm``; Qwen2.5-7B's are the schema's own defaults."""
    speech_decoder: dict[str, Any] = field(default_factory=dict)
    """Sizes of ``model.speech_decoder`` that divide those of the language model, likewise."""


#: Nobody has published a speech decoder for these; heads stay 64 wide.
_DECODER = {"width": 1024, "num_heads": 16}

#: Shapes are those of config.json of Qwen2.5-7B-Instruct, Mistral-Nemo-Instruct-2407,
#: Mixtral-8x7B-Instruct-v0.1 and
#: Meta-Llama-3-8B-Instruct. "fo" is the variant with a state head, after Freeze-Omni.
PUBLISHED: dict[Family, Published] = {
    "qwen2p5_instruct": Published("qwen2p5_instruct"),
    "qwen2p5_fo_instruct": Published("qwen2p5_instruct", "head"),
    "nemo": Published(
        "nemo",
        shape={
            "vocab_size": 131072,
            "hidden_size": 5120,
            "num_layers": 40,
            "num_heads": 32,
            "num_kv_heads": 8,
            "head_dim": 128,
            "intermediate_size": 14336,
            "max_positions": 131072,
            "rope_theta": 1e6,
            "rms_norm_eps": 1e-5,
        },
        speech_decoder=_DECODER,
    ),
    "mixtral-8x7b": Published(
        "mixtral_two",
        shape={
            "vocab_size": 32000,
            "hidden_size": 4096,
            "num_layers": 32,
            "num_heads": 32,
            "num_kv_heads": 8,
            "intermediate_size": 14336,
            "max_positions": 32768,
            "rope_theta": 1e6,
            "rms_norm_eps": 1e-5,
            "moe": {},
        },
        speech_decoder=_DECODER,
    ),
    "llama3-8b": Published(
        "llama3",
        shape={
            "vocab_size": 128256,
            "hidden_size": 4096,
            "num_layers": 32,
            "num_heads": 32,
            "num_kv_heads": 8,
            "intermediate_size": 14336,
            "max_positions": 8192,
            "rope_theta": 5e5,
            "rms_norm_eps": 1e-5,
        },
        speech_decoder=_DECODER,
    ),
}


def fill_in_family(recipe: dict[str, Any]) -> None:
    """Write into a recipe's plain values what its family is known by, wherever the recipe itself
    says nothing.

    What is not as a recipe should be is left alone: checking it is somebody else's work.
    """
    model = recipe.get("model")
    llm = model.get("llm") if isinstance(model, dict) else None
    family = llm.get("family") if isinstance(llm, dict) else None
    data = recipe.get("data", {})
    if (
        family not in FAMILIES
        or not isinstance(model, dict)
        or not isinstance(llm, dict)
        or not isinstance(data, dict)
    ):
        return
    published = PUBLISHED[family]
    # Heads of their own width belong to the published model; another width or number of heads
    # divides as usual.
    left = {"head_dim"} if {"hidden_size", "num_heads"} & set(llm) else set()
    for name, value in published.shape.items():
        if name not in left:
            llm.setdefault(name, value)
    if published.speech_decoder and llm["hidden_size"] == published.shape["hidden_size"]:
        model.setdefault("speech_decoder", dict(published.speech_decoder))
    recipe["data"] = {"template": published.template, "state_mode": published.state_mode, **data}
