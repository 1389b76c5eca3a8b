"""Names under which the public trainer's scripts and other documents know the stages of the shipped
ladder."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches

from vita_train.errors import RecipeError

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


def stage_name(name: str, stages: Collection[str]) -> str:
    """Return a stage's name as the recipe has it, given by name, script name (``.sh`` allowed) or
    alias.

    A name of the recipe goes before an alias.

    Raises:
        RecipeError: the recipe has no such stage; the nearest names are listed.
    """
    key = name.removesuffix(".sh")
    for candidate in (name, key, STAGE_ALIASES.get(key, "")):
        if candidate in stages:
            return candidate
    known = [*stages, *(alias for alias, stage in STAGE_ALIASES.items() if stage in stages)]
    near = get_close_matches(key, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"its stages are {', '.join(stages)}"
    raise RecipeError(f"the recipe has no stage {name!r}", code="VT-RECIPE-026", remedy=hint)
