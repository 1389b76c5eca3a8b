"""The ladder: stage ids in order, the names people know them by, and the modules a model is made of."""

from __future__ import annotations

from difflib import get_close_matches

from vita_train.errors import RecipeError

#: Canonical stage ids in the order they run. ``0.*`` train stand-ins where no pretrained part is given.
STAGES: tuple[str, ...] = ("0.llm", "0.vision", "1.1", "1.2", "1.3", "2.1a", "2.1b", "2.2", "3.1", "3.2")

STAGE_TITLES: dict[str, str] = {
    "0.llm": "stand-in language model",
    "0.vision": "stand-in vision tower",
    "1.1": "vision alignment",
    "1.2": "vision understanding",
    "1.3": "vision instruction tuning",
    "2.1a": "speech recogniser (CTC)",
    "2.1b": "audio adapter alignment",
    "2.2": "omni supervised fine-tuning",
    "3.1": "speech codec",
    "3.2": "speech decoder",
}

#: Names under which other documents and the public scripts know a stage.
STAGE_ALIASES: dict[str, str] = {
    "pretrain_mlp_qwen": "1.1",
    "pretrain_mlp_qwen_nodes": "1.1",
    "finetune_qwen": "1.2",
    "finetune_qwen_nodes": "1.2",
    "finetuneTask_qwen": "1.3",
    "finetuneTask_qwen_nodes": "1.3",
    "pretrain_audio_mlp_qwen": "2.1b",
    "pretrain_audio_mlp_qwen_nodes": "2.1b",
    "finetuneTaskNeg_qwen": "2.2",
    "finetuneTaskNeg_qwen_nodes": "2.2",
    "codec": "3.1",
    "speech_decoder": "3.2",
}

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

#: Modules a stage's own model is made of, trained or frozen.
MODULES_NEEDED: dict[str, tuple[str, ...]] = {
    "0.llm": ("llm",),
    "0.vision": ("vision",),
    "1.1": ("llm", "vision", "projector"),
    "1.2": ("llm", "vision", "projector"),
    "1.3": ("llm", "vision", "projector"),
    "2.1a": ("audio_encoder", "ctc_head"),
    "2.1b": ("llm", "audio_encoder", "audio_adapter"),
    "2.2": ("llm", "vision", "projector", "audio_encoder", "audio_adapter"),
    "3.1": ("codec",),
    "3.2": ("llm", "codec", "speech_decoder"),
}


def stage_id(name: str) -> str:
    """Return the canonical id of a stage given by id, script name (``.sh`` allowed) or alias.

    Raises:
        RecipeError: nothing is known by that name; the nearest names are listed.
    """
    key = name.removesuffix(".sh")
    if key in STAGES:
        return key
    if key in STAGE_ALIASES:
        return STAGE_ALIASES[key]
    near = get_close_matches(key, [*STAGES, *STAGE_ALIASES], n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"stages are {', '.join(STAGES)}"
    raise RecipeError(f"unknown stage {name!r}", remedy=hint)
