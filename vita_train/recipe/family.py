"""Families of language models: how the published model of each looks, how it is spoken to, and
which classes compute it. Declared without torch; a plugin adds one with `register_family`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vita_train.plugins import Registry


@dataclass(frozen=True)
class LanguageFamily:
    """One family. What a recipe says itself goes before ``template`` to ``speech_decoder``."""

    name: str
    """As ``model.llm.family`` has it."""
    model_type: str
    """What the config.json of its models calls it."""
    config: str
    """``package.module:Class`` of a configuration of transformers."""
    network: str
    """``package.module:Class`` of a causal language model of transformers, with blocks in
    ``model.layers``."""
    template: str
    """Conversation template: one that is shipped, or the path of a file."""
    state_mode: str = "glyph"
    shape: Mapping[str, Any] = field(default_factory=dict)
    """Sizes of ``model.llm``; Qwen2.5-7B's are the schema's own defaults."""
    speech_decoder: Mapping[str, Any] = field(default_factory=dict)
    """Sizes of ``model.speech_decoder`` that divide those of the language model, likewise."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the configuration is given besides the sizes."""
    experts: bool = False
    """Whether its blocks have experts; a recipe then gives ``model.llm.moe``."""


FAMILIES: Registry[LanguageFamily] = Registry("language family")


def register_family(family: LanguageFamily) -> None:
    """Add a family.

    Raises:
        VitaError: its name is taken.
    """
    FAMILIES.add(family.name, family)


def _of_transformers(model_type: str, prefix: str) -> tuple[str, str, str]:
    package = f"transformers.models.{model_type}"
    return (
        model_type,
        f"{package}.configuration_{model_type}:{prefix}Config",
        f"{package}.modeling_{model_type}:{prefix}ForCausalLM",
    )


#: Nobody has published a speech decoder for these; heads stay 64 wide.
_DECODER = {"width": 1024, "num_heads": 16}
#: A document's attention reaches back to its beginning.
_NO_WINDOW = {"sliding_window": None}

# Shapes are those of config.json of Qwen2.5-7B-Instruct, Mistral-Nemo-Instruct-2407,
# Mixtral-8x7B-Instruct-v0.1 and Meta-Llama-3-8B-Instruct. "fo" is the variant with a state head,
# after Freeze-Omni.
register_family(
    LanguageFamily(
        "qwen2p5_instruct", *_of_transformers("qwen2", "Qwen2"), template="qwen2p5_instruct"
    )
)
register_family(
    LanguageFamily(
        "qwen2p5_fo_instruct",
        *_of_transformers("qwen2", "Qwen2"),
        template="qwen2p5_instruct",
        state_mode="head",
    )
)
register_family(
    LanguageFamily(
        "nemo",
        *_of_transformers("mistral", "Mistral"),
        template="nemo",
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
        settings=_NO_WINDOW,
    )
)
register_family(
    LanguageFamily(
        "mixtral-8x7b",
        *_of_transformers("mixtral", "Mixtral"),
        template="mixtral_two",
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
        settings=_NO_WINDOW,
        experts=True,
    )
)
register_family(
    LanguageFamily(
        "llama3-8b",
        *_of_transformers("llama", "Llama"),
        template="llama3",
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
    )
)
#: Vicuna is Llama 2, tuned.
_LLAMA_2_7B = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "num_layers": 32,
    "num_heads": 32,
    "num_kv_heads": 32,
    "intermediate_size": 11008,
    "rope_theta": 1e4,
    "rms_norm_eps": 1e-5,
}
# lmsys/vicuna-7b-v1.5.
register_family(
    LanguageFamily(
        "vicuna-7b",
        *_of_transformers("llama", "Llama"),
        template="vicuna",
        shape={**_LLAMA_2_7B, "max_positions": 4096},
        speech_decoder=_DECODER,
    )
)
# princeton-nlp/Sheared-LLaMA-2.7B, spoken to as Vicuna is.
register_family(
    LanguageFamily(
        "sheared-llama-2.7b",
        *_of_transformers("llama", "Llama"),
        template="vicuna",
        shape={
            "vocab_size": 32000,
            "hidden_size": 2560,
            "num_layers": 32,
            "num_heads": 20,
            "num_kv_heads": 20,
            "intermediate_size": 6912,
            "max_positions": 4096,
            "rope_theta": 1e4,
            "rms_norm_eps": 1e-5,
        },
        speech_decoder={"width": 640, "num_heads": 10},
    )
)
# lmsys/vicuna-7b-v1.5-16k: its base reads 4,096 positions, turned four times as slowly.
register_family(
    LanguageFamily(
        "vicuna-7b-16k",
        *_of_transformers("llama", "Llama"),
        template="vicuna",
        shape={**_LLAMA_2_7B, "max_positions": 16384, "rope_factor": 4.0},
        speech_decoder=_DECODER,
    )
)


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
        not isinstance(family, str)
        or family not in FAMILIES
        or not isinstance(model, dict)
        or not isinstance(llm, dict)
        or not isinstance(data, dict)
    ):
        return
    published = FAMILIES[family]
    # Heads of their own width belong to the published model; another width or number of heads
    # divides as usual.
    left = {"head_dim"} if {"hidden_size", "num_heads"} & set(llm) else set()
    for name, value in published.shape.items():
        if name not in left:
            llm.setdefault(name, value)
    # Only beside the published width, which the decoder's has to divide
    if published.speech_decoder and llm.get("hidden_size") == published.shape.get("hidden_size"):
        model.setdefault("speech_decoder", dict(published.speech_decoder))
    recipe["data"] = {"template": published.template, "state_mode": published.state_mode, **data}
