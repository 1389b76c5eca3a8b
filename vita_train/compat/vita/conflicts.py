"""Flags that contradict each other. Each is refused in one line that names both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath
from typing import NamedTuple

from vita_train.compat.vita.flags import MODEL_TYPES, TOWERS
from vita_train.compat.vita.parse import Arguments
from vita_train.compat.vita.zero import Zero
from vita_train.errors import UserError

#: Templates that the public code trains each model type with.
#: Those that are of no family's own go with every model type.
_ANY = ("plain", "phi3", "minicpm", "llama")
TEMPLATES: dict[str, tuple[str, ...]] = {
    "qwen2p5_instruct": ("qwen2p5_instruct",),
    "qwen2p5_fo_instruct": ("qwen2p5_instruct",),
    "mixtral-8x7b": ("mixtral_two", "mixtral_zh", "default"),
    "nemo": ("nemo",),
    "llama3-8b": ("llama3",),
}
#: Towers through which no gradient flows in the public code.
_CLOSED = ("siglip", "clip", "eva")


class Given(NamedTuple):
    """What the conflicts are looked for in."""

    arguments: Arguments
    zero: Zero | None
    tower: str
    parts: tuple[str, ...]
    """Parts that train."""


class Conflict(NamedTuple):
    """Two flags that cannot stand together."""

    first: str
    second: str
    holds: Callable[[Given], bool]
    why: str
    remedy: str
    is_public: bool = False
    """The public code goes on all the same; with ``--like-public`` so does the recipe."""


def _quantised(given: Given) -> bool:
    return bool(given.arguments["bits"] != 16)


def _trackers(arguments: Arguments) -> list[str]:
    return str(arguments["report_to"] or "").split(",")


CONFLICTS: tuple[Conflict, ...] = (
    Conflict(
        "bf16",
        "fp16",
        lambda g: g.arguments["bf16"] and g.arguments["fp16"],
        "a run computes in one type",
        "keep --bf16",
    ),
    Conflict(
        "fp16",
        "deepspeed",
        lambda g: g.arguments["fp16"] and g.zero is not None,
        "float16 has its loss scale in the plain engine only",
        "take --bf16, or drop --deepspeed",
    ),
    Conflict(
        "bits",
        "lora_enable",
        lambda g: (
            _quantised(g)
            and not g.arguments["lora_enable"]
            and bool({"llm", "lm_head"} & {*g.parts})
        ),
        "quantised weights cannot be trained themselves",
        "add --lora_enable True, or train an adapter alone",
    ),
    Conflict(
        "bits",
        "deepspeed",
        lambda g: _quantised(g) and g.zero is not None and g.zero.stage == 3,
        "quantised weights cannot be loaded partitioned, as ZeRO-3 does",
        "take zero2.json or no DeepSpeed",
    ),
    Conflict(
        "lora_enable",
        "tune_mm_mlp_adapter",
        lambda g: g.arguments["lora_enable"] and g.arguments["tune_mm_mlp_adapter"],
        "all but the projector is frozen, LoRA's weights too",
        "drop one of them",
    ),
    Conflict(
        "lora_enable",
        "tune_audio_mlp_adapter",
        lambda g: g.arguments["lora_enable"] and g.arguments["tune_audio_mlp_adapter"],
        "all but the audio adapter is frozen, LoRA's weights too",
        "drop one of them",
    ),
    Conflict(
        "use_s2",
        "vision_tower",
        lambda g: g.arguments["use_s2"] and g.tower != "siglip",
        "scales are joined with a SigLIP tower only",
        "drop --use_s2",
    ),
    Conflict(
        "unfreeze_vision_tower",
        "vision_tower",
        lambda g: g.arguments["unfreeze_vision_tower"] and g.tower in _CLOSED,
        "no gradient flows through this tower",
        "drop --unfreeze_vision_tower, or take InternViT",
    ),
    Conflict(
        "mm_projector_lr",
        "unfreeze_vision_tower",
        lambda g: g.arguments["mm_projector_lr"] is not None and "vision" not in g.parts,
        "it is the rate of the vision tower, which does not train",
        "drop it, or add --unfreeze_vision_tower True",
        is_public=True,
    ),
    Conflict(
        "is_multimodal",
        "lazy_preprocess",
        lambda g: (
            not g.arguments["is_multimodal"] and g.arguments.given.get("lazy_preprocess") is False
        ),
        "placeholders of media would stay in the text",
        "drop both",
    ),
    Conflict(
        "is_multimodal",
        "vision_tower",
        lambda g: not g.arguments["is_multimodal"] and g.arguments["vision_tower"] is not None,
        "the data hold media, whose placeholders would stay in the text",
        "drop --is_multimodal False",
    ),
    Conflict(
        "min_dynamic_patch",
        "max_dynamic_patch",
        lambda g: g.arguments["min_dynamic_patch"] > g.arguments["max_dynamic_patch"],
        "the fewest tiles are more than the most",
        "swap them",
    ),
    Conflict(
        "min_video_frames",
        "max_video_frames",
        lambda g: g.arguments["min_video_frames"] > g.arguments["max_video_frames"],
        "the fewest frames are more than the most",
        "swap them",
    ),
    Conflict(
        "version",
        "model_type",
        lambda g: g.arguments["version"] not in (None, *TEMPLATES[model_type(g.arguments)], *_ANY),
        "the template belongs to another family of models",
        "drop --version",
    ),
    Conflict(
        "audio_prompt_finetune",
        "audio_prompt_num",
        lambda g: g.arguments["audio_prompt_finetune"] and not g.arguments["audio_prompt_num"],
        "a prompt of no rows cannot be trained",
        "add --audio_prompt_num 25",
    ),
    Conflict(
        "lr_scheduler_type",
        "deepspeed",
        lambda g: (
            g.zero is not None
            and g.zero.scheduler not in ("", g.arguments["lr_scheduler_type"])
            and "lr_scheduler_type" in g.arguments.given
        ),
        "the file brings a scheduler of its own, which would take its place",
        "remove the scheduler from the file, or take zero3.json",
        is_public=True,
    ),
    Conflict(
        "debug_mode",
        "report_to",
        lambda g: g.arguments["debug_mode"] and bool({*_trackers(g.arguments)} - {"", "none"}),
        "debugging reports to nobody",
        "drop one of them",
    ),
    Conflict(
        "wandb_project",
        "report_to",
        lambda g: (
            bool(g.arguments["wandb_project"] and g.arguments["report_to"])
            and not {"wandb", "all"} & {*_trackers(g.arguments)}
        ),
        "the project would get nothing",
        "add wandb to --report_to",
    ),
    Conflict(
        "resume_from_checkpoint",
        "output_dir",
        lambda g: _is_elsewhere(g.arguments["resume_from_checkpoint"], g.arguments["output_dir"]),
        "a run goes on from its own checkpoints only",
        "give the checkpoint's run as --output_dir",
    ),
)


def refuse_conflicts(given: Given, *, like_public: bool = False) -> None:
    """Refuse flags that contradict each other.

    Raises:
        UserError: the first conflict there is.
    """
    for conflict in CONFLICTS:
        if not conflict.holds(given):
            continue
        arguments = given.arguments
        what = (
            f"{arguments.shown(conflict.first)} contradicts {arguments.shown(conflict.second)}: "
            f"{conflict.why}"
        )
        if not (conflict.is_public and like_public):
            more = "; --like-public does as the public code" if conflict.is_public else ""
            raise UserError(what, code="VT-USE-013", where="train", remedy=conflict.remedy + more)
        arguments.note(f"{what}; taken as the public code does")


def model_type(arguments: Arguments) -> str:
    """Return the family of models."""
    return str(arguments["model_type"] or MODEL_TYPES[0])


def tower_kind(arguments: Arguments) -> str:
    """Return the kind of the vision tower: as stated, else by the last part of its path.

    The public code looks through the whole path, so that a folder called ``design`` makes any tower
    a SigLIP.

    Raises:
        UserError: the name tells nothing.
    """
    if arguments["vision_tower_type"] is not None or arguments["vision_tower"] is None:
        return str(arguments["vision_tower_type"] or TOWERS[0])
    path = str(arguments["vision_tower"]).lower()
    name = PurePath(path.rstrip("/")).name
    for kind in TOWERS:
        if kind in name or (kind == "siglip" and name.startswith("sig")):
            return kind
    raise UserError(
        f"--vision_tower {arguments['vision_tower']} does not tell what kind of tower it is",
        code="VT-USE-014",
        where="train",
        remedy=f"add --vision_tower_type, one of {', '.join(TOWERS)}",
    )


def _is_elsewhere(checkpoint: str | None, output: str | None) -> bool:
    if checkpoint is None or output is None or checkpoint.lower() in ("true", "false"):
        return False
    return not PurePath(checkpoint).is_relative_to(PurePath(output))
