"""Modules from a specification.

transformers is imported where a module of its classes is built: it takes seconds, and modules of
audio have none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import nn

from vita_train.errors import RecipeError
from vita_train.models.audio.adapter import AudioPrompt, build_audio_adapter
from vita_train.models.audio.encoder import AudioEncoder
from vita_train.models.language.decoder import build_llm, load_llm
from vita_train.models.state_head import build_state_head
from vita_train.models.vision import build_vision, load_vision
from vita_train.models.vision.projector import build_projector
from vita_train.recipe.model import ModelSpec
from vita_train.recipe.modules import MODULES

#: Modules of transformers' classes.
_OF_TRANSFORMERS = frozenset({"llm", "vision", "speech_decoder"})


def build_modules(
    spec: ModelSpec,
    names: Iterable[str],
    *,
    ctc_vocab_size: int = 0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    empty: bool = False,
) -> nn.ModuleDict:
    """Build modules by name.

    Each module draws its first weights from its own seed, so that building one more changes no
    other. Works under ``torch.device("meta")``, where no weights are drawn or read.

    Args:
        spec: shapes and sources.
        names: keys of ``recipe.modules.MODULES``; the result has them in that order.
        ctc_vocab_size: outputs of the CTC head, blank included; needed when ``ctc_head`` is named.
        seed: the run's seed.
        dtype: type of the parameters. Buffers (rotary rates, CMVN, codebook statistics) keep their
            own.
        empty: for weights that are loaded right after. Parameters are neither drawn nor read from
            ``model.llm.source`` and ``model.vision.source``, and take no memory until something is
            written to them: billions of numbers would be drawn in minutes, and in float32, for
            nothing. Audio's own modules are small: without others beside them they are drawn all
            the same, sooner than what spares it is imported.

    Raises:
        RecipeError: a name is unknown, or the CTC head has no units.
        CheckpointError: a pretrained source cannot be read or has another shape.
    """
    wanted = set(names)
    unknown = sorted(wanted - set(MODULES))
    if unknown:
        raise RecipeError(
            f"unknown modules {unknown}",
            code="VT-RECIPE-018",
            remedy=f"modules are {', '.join(MODULES)}",
        )
    if "ctc_head" in wanted and ctc_vocab_size < 2:
        raise RecipeError(
            f"the CTC head needs at least one unit beside blank, got {ctc_vocab_size}",
            code="VT-RECIPE-019",
            remedy="prepare the transcripts first; they give the inventory",
        )
    read = not empty and torch.get_default_device().type != "meta"
    undrawn = _spared if empty and wanted & _OF_TRANSFORMERS else nullcontext
    modules = nn.ModuleDict()
    for name in MODULES:
        if name in wanted:
            # devices=[]: the CPU's generator draws the weights, and it alone has to be put back
            with torch.random.fork_rng(devices=[]), undrawn():
                torch.manual_seed(module_seed(seed, name))
                modules[name] = _builder(spec, name, ctc_vocab_size, read, dtype)()
    if not empty:
        return cast_parameters(modules, dtype)
    for parameter in modules.parameters():
        parameter.data = torch.empty_like(parameter, dtype=dtype)
    if "llm" in modules:
        cast(Any, modules["llm"]).tie_weights()  # is part of what was spared
    return modules


def module_seed(seed: int, name: str) -> int:
    """Return the seed of one module's first weights."""
    # sha256, because hash() of text differs between processes; >> 1 keeps it a positive int64
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 1


def cast_parameters(modules: nn.ModuleDict, dtype: torch.dtype) -> nn.ModuleDict:
    """Cast parameters in place and leave buffers as they are; returns the same modules."""
    for parameter in modules.parameters():
        # By data: a new Parameter would part tied weights
        parameter.data = parameter.data.to(dtype)
    return modules


def _spared() -> AbstractContextManager[None]:
    """Return a context in which no module draws its weights."""
    from transformers.initialization import no_init_weights

    return no_init_weights()


def _builder(
    spec: ModelSpec, name: str, ctc_vocab_size: int, read: bool, dtype: torch.dtype
) -> Callable[[], nn.Module]:
    llm_source = spec.llm.source if read else None
    vision_source = spec.vision.source if read else None
    builders: dict[str, Callable[[], nn.Module]] = {
        "llm": lambda: load_llm(spec.llm, llm_source, dtype) if llm_source else build_llm(spec.llm),
        "vision": lambda: (
            load_vision(spec.vision, vision_source) if vision_source else build_vision(spec.vision)
        ),
        "projector": lambda: build_projector(spec),
        "audio_encoder": lambda: AudioEncoder(spec.audio_encoder),
        "ctc_head": lambda: nn.Linear(spec.audio_encoder.width, ctc_vocab_size),
        "audio_adapter": lambda: build_audio_adapter(spec),
        "audio_prompt": lambda: AudioPrompt(spec.audio_adapter.prompt_tokens, spec.llm.hidden_size),
        "state_head": lambda: build_state_head(spec),
        "codec": lambda: _build_codec(spec),
        "discriminators": lambda: _build_discriminators(spec),
        "speech_decoder": lambda: _build_speech_decoder(spec),
    }
    return builders[name]


def _build_codec(spec: ModelSpec) -> nn.Module:
    from vita_train.models.codec import build_codec

    return build_codec(spec.codec)


def _build_discriminators(spec: ModelSpec) -> nn.Module:
    from vita_train.models.codec import build_discriminators

    return build_discriminators(spec.codec)


def _build_speech_decoder(spec: ModelSpec) -> nn.Module:
    from vita_train.models.speech.decoder import SpeechDecoder

    return SpeechDecoder(spec)
