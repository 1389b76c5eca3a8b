"""What the public flags can ask for and a recipe cannot say yet. An entry is widened or removed once it can."""

from __future__ import annotations

from typing import NamedTuple

from vita_train.errors import UserError
from vita_train.recipe.public.conflicts import model_type, tower_kind
from vita_train.recipe.public.flags import Value
from vita_train.recipe.public.parse import Arguments


class Pending(NamedTuple):
    """A flag of which recipes can express some values alone."""

    flag: str
    supported: tuple[Value, ...]
    what: str
    """What the other values ask for."""


#: ``model_type`` and ``vision_tower`` are looked up as they were understood, not as they were written.
PENDING: tuple[Pending, ...] = (
    Pending("model_type", ("qwen2p5_instruct",), "another family of language models"),
    Pending("version", (None, "qwen2p5_instruct"), "another template"),
    Pending("vision_tower", ("internvit",), "another kind of vision tower"),
    Pending("use_s2", (False,), "several scales of a picture joined"),
    Pending("mm_projector_type", ("mlp2x_gelu",), "another kind of projector"),
    Pending("audio_prompt_finetune", (False,), "prompt tokens before the audio"),
    Pending("audio_state_predictor_tuning", (False,), "the state head"),
    Pending("lora_enable", (False,), "LoRA"),
    Pending("bits", (16,), "quantised weights"),
    Pending("image_folder", (None,), "one root for all pictures; edit the roots in the registry"),
    Pending("fp16", (False,), "computing in float16; take --bf16"),
    Pending("optim", ("adamw_torch", "adamw_torch_fused", "adamw_hf"), "another optimizer"),
    Pending("lr_scheduler_type", ("cosine", "linear", "constant", "constant_with_warmup"), "another schedule"),
    Pending("eval_strategy", ("no", "steps"), "measuring once an epoch; take steps"),
    Pending("save_strategy", ("steps",), "another time to save; take steps"),
    Pending("state_mode", ("none", "glyph"), "another way of marking replies"),
    Pending("tile_video", (False,), "tiles of frames"),
    Pending("slowfast", (False,), "slow-fast pooling"),
)


def refuse_missing(arguments: Arguments, parts: tuple[str, ...]) -> None:
    """Refuse what cannot be said yet.

    Args:
        arguments: the command line.
        parts: what trains.

    Raises:
        UserError: naming each flag with what it asks for.
    """
    understood = {"model_type": model_type(arguments), "vision_tower": tower_kind(arguments)}
    found = [f"{arguments.shown(entry.flag)} ({entry.what})" for entry in PENDING
             if understood.get(entry.flag, arguments[entry.flag]) not in entry.supported]
    if ("llm" in parts) != ("lm_head" in parts):
        found.append(f"{arguments.shown('freeze_backbone')} (a head that trains while the llm is frozen)")
    if found:
        raise UserError(f"not yet supported: {', '.join(found)}", where="train")
