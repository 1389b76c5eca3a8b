"""The modules a model is made of, and what each medium passes through on its way to the language
model."""

from __future__ import annotations

#: Every module a stage may train. The order is the order in reports.
MODULES: tuple[str, ...] = (
    "llm",
    "vision",
    "projector",
    "audio_encoder",
    "ctc_head",
    "audio_adapter",
    "audio_prompt",
    "state_head",
    "codec",
    "discriminators",
    "speech_decoder",
)

#: Modules in front of the language model, by medium.
IMAGE_PATH: tuple[str, ...] = ("vision", "projector")
AUDIO_PATH: tuple[str, ...] = ("audio_encoder", "audio_adapter", "audio_prompt")
