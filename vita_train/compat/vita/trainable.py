"""Which modules train, by the rules of the public code: line after line, each of which may undo an
earlier one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from vita_train.compat.vita.parse import Arguments
from vita_train.errors import UserError
from vita_train.recipe.modules import MODULES

#: What the public code trains or freezes as one. The language model's head is a part of its own
#: there.
PARTS: tuple[str, ...] = (
    "llm",
    "lm_head",
    "vision",
    "projector",
    "audio_encoder",
    "audio_adapter",
    "audio_prompt",
    "state_head",
)

#: The flags that ask for a part alone: everything else is frozen first.
ALONE: dict[str, str] = {
    "tune_mm_mlp_adapter": "projector",
    "tune_audio_mlp_adapter": "audio_adapter",
    "audio_prompt_finetune": "audio_prompt",
    "audio_state_predictor_tuning": "state_head",
}


class _Wish(NamedTuple):
    """What a flag with a certain value plainly asks for."""

    flag: str
    value: bool
    part: str
    trains: bool


_WISHES = (
    *(_Wish(flag, True, part, True) for flag, part in ALONE.items()),
    _Wish("freeze_backbone", True, "llm", False),
    _Wish("freeze_audio_encoder", False, "audio_encoder", True),
    _Wish("freeze_audio_encoder_adapter", False, "audio_adapter", True),
    _Wish("freeze_audio_encoder_adapter", True, "audio_adapter", False),
    _Wish("freeze_mm_mlp_adapter", True, "projector", False),
    _Wish("unfreeze_vision_tower", True, "vision", True),
)


class Resolved(NamedTuple):
    """What the public rules come to."""

    parts: tuple[str, ...]
    """The parts that train, in the order of `PARTS`."""
    decided: dict[str, str]
    """Part to the flag that had the last word on it; parts that no flag touched are left out."""


def resolve(arguments: Arguments, *, together: bool = False) -> Resolved:
    """Apply the public code's rules in its order.

    Args:
        arguments: the command line.
        together: where both ``tune_*_mlp_adapter`` are true, let both parts train; the public code
            freezes the first again when it comes to the second.
    """
    state = dict.fromkeys(PARTS, False) | dict.fromkeys(("llm", "lm_head", "projector"), True)
    decided: dict[str, str] = {}

    def put(flag: str, parts: Iterable[str], trains: bool) -> None:
        for part in parts:
            state[part], decided[part] = trains, flag

    # 0: the tower is frozen when it is loaded; the speech side follows its own flags when it is
    # built.
    put("freeze_audio_encoder", ["audio_encoder"], not arguments["freeze_audio_encoder"])
    put(
        "freeze_audio_encoder_adapter",
        ["audio_adapter"],
        not arguments["freeze_audio_encoder_adapter"],
    )
    if arguments["freeze_backbone"]:  # 1: the head stays, and the projector is made later
        put("freeze_backbone", ["llm"], False)
    tuned = _tuned(arguments)  # 2 and 3
    for flag in tuned:
        if not together or flag == tuned[0]:
            put(flag, PARTS, False)
        put(flag, [ALONE[flag]], True)
    asked = [
        flag
        for flag in ("audio_prompt_finetune", "audio_state_predictor_tuning")
        if arguments[flag]
    ]  # 4
    if asked:
        put(asked[0], PARTS, False)
        for flag in asked:
            put(flag, [ALONE[flag]], True)
    if arguments["freeze_mm_mlp_adapter"]:  # 5
        put("freeze_mm_mlp_adapter", ["projector"], False)
    if arguments["unfreeze_vision_tower"]:  # 6
        put("unfreeze_vision_tower", ["vision"], True)
    return Resolved(tuple(part for part in PARTS if state[part]), decided)


def trainable_parts(arguments: Arguments, *, like_public: bool = False) -> tuple[str, ...]:
    """Return the parts that train.

    Args:
        arguments: the command line.
        like_public: where flags undo each other, take what the public code makes of them; else that
            is refused.

    Raises:
        UserError: a flag that was given is undone by another, or nothing is left to train.
    """
    resolved = resolve(arguments, together=not like_public)
    parts = resolved.parts
    tuned = _tuned(arguments)
    if len(tuned) > 1 and not like_public:
        flags = " and ".join(arguments.shown(flag) for flag in tuned)
        arguments.note(
            f"{flags} train {', '.join(parts)}; the public code trains the audio adapter alone, "
            "and so does --like-public"
        )
    for flag, value, part, trains in _WISHES:
        if flag not in arguments.given or arguments[flag] != value or (part in parts) == trains:
            continue
        other, verb = resolved.decided[part], "trains" if part in parts else "freezes"
        what = (
            f"{arguments.shown(flag)} contradicts {arguments.shown(other)}: the public code {verb} "
            f"the {part}"
        )
        if not like_public:
            raise UserError(
                what,
                code="VT-USE-020",
                where="train",
                remedy="drop one of them, or add --like-public to do the same",
            )
        arguments.note(f"{what}, and so does this run")
    if arguments["freeze_backbone"] and "lm_head" in parts and not like_public:
        parts = tuple(part for part in parts if part != "lm_head")
        arguments.note(
            "--freeze_backbone leaves lm_head training in the public code; here the whole llm is "
            "frozen"
        )
    if not parts:
        raise UserError(
            "nothing is left to train",
            code="VT-USE-021",
            where="train",
            remedy="drop one of the flags that freeze",
        )
    for flag, part in ALONE.items():
        if arguments.given.get(flag) is False and part in parts:
            arguments.note(
                f"--{flag} False freezes nothing, in the public code as well: the {part} trains"
            )
    return parts


def without_tower(arguments: Arguments, parts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the parts that train where there is no vision tower, and so no projector.

    Raises:
        UserError: a flag asks for one of them, or nothing is left to train.
    """
    for flag in ("tune_mm_mlp_adapter", "unfreeze_vision_tower", "pretrain_mm_mlp_adapter"):
        if arguments[flag]:
            raise UserError(
                f"{arguments.shown(flag)} needs a vision tower",
                code="VT-USE-236",
                where="train",
                remedy="add --vision_tower, or drop it",
            )
    arguments.note(
        "without --vision_tower there is neither tower nor projector: the data may hold text and "
        "audio alone"
    )
    return tuple(part for part in parts if part not in ("vision", "projector"))


def _tuned(arguments: Arguments) -> list[str]:
    """Return the ``tune_*_mlp_adapter`` flags that are true, in the public code's order."""
    return [flag for flag in ("tune_mm_mlp_adapter", "tune_audio_mlp_adapter") if arguments[flag]]


def rates(parts: Iterable[str], arguments: Arguments) -> dict[str, float]:
    """Return the peak rate of each module that trains. The head belongs to the llm.

    The public code's ``mm_projector_lr`` is the rate of the vision tower, whatever its name says;
    ours, ``projector_lr``, is the projector's.

    Raises:
        UserError: ``projector_lr`` is given and the projector does not train.
    """
    found = {
        "llm" if part == "lm_head" else part: float(arguments["learning_rate"]) for part in parts
    }
    if "vision" in found and arguments["mm_projector_lr"] is not None:
        found["vision"] = float(arguments["mm_projector_lr"])
    if arguments["projector_lr"] is not None:
        if "projector" not in found:
            raise UserError(
                f"{arguments.shown('projector_lr')} is the rate of the projector, which does not "
                "train",
                code="VT-USE-237",
                where="train",
                remedy="drop it",
            )
        found["projector"] = float(arguments["projector_lr"])
    return {name: found[name] for name in (*MODULES, *PARTS) if name in found}
