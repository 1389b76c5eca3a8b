"""From the public trainer's command line to a recipe of one stage."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from vita_train.compat.vita.conflicts import Given, refuse_conflicts, tower_kind
from vita_train.compat.vita.flags import OPTIMIZERS
from vita_train.compat.vita.model import (
    adapted,
    model_of,
    rooted,
    state_mode_of,
    template_of,
)
from vita_train.compat.vita.parse import Arguments, parse_arguments
from vita_train.compat.vita.pending import refuse_missing
from vita_train.compat.vita.predecessors import Checkpoint, Exists, start_from_runs
from vita_train.compat.vita.trainable import rates, trainable_parts, without_tower
from vita_train.compat.vita.zero import FLAG_OF, Zero, disagreements, read_zero
from vita_train.errors import RecipeError, UserError
from vita_train.recipe.aliases import stage_name
from vita_train.recipe.family import fill_in_family
from vita_train.recipe.overrides import apply_overrides
from vita_train.recipe.schema import Recipe
from vita_train.recipe.validation import validated
from vita_train.recipe.yaml_tree import Tree

#: The stages that the public trainer can run.
PUBLIC_STAGES: dict[str, str] = {
    "1.1": "vision alignment",
    "1.2": "vision understanding",
    "1.3": "vision instruction tuning",
    "2.1b": "audio adapter alignment",
    "2.2": "omni supervised fine-tuning",
}
#: Modules of these stages' models, beside the language model.
_MODULES: dict[str, tuple[str, ...]] = {
    "1.1": ("vision", "projector"),
    "1.2": ("vision", "projector"),
    "1.3": ("vision", "projector"),
    "2.1b": ("audio_encoder", "audio_adapter"),
    "2.2": ("vision", "projector", "audio_encoder", "audio_adapter"),
}
_NEEDED = {
    "model_name_or_path": "the language model to start from",
    "dataset_use": "a dataset of the registry",
    "output_dir": "where the run goes",
}


Members = Callable[[str, str], Mapping[str, float]]
"""Of a registry and a name in it, the datasets that the name stands for and how often each is
taken."""
Names = Callable[[str], Sequence[str]]
"""Of a registry, the names in it."""


class PublicRun(NamedTuple):
    """What a command line asks for."""

    recipe: Recipe
    stage: str
    notes: list[str]
    """Notes for the reader."""
    hub_cache: str | None = None
    """Where files of the hub are to be kept, if that was said."""
    resumed: str | None = None
    """The checkpoint that the run is to go on from, if one was named."""


def public_run(
    words: Sequence[str],
    *,
    stage: str = "",
    settings: Sequence[str] = (),
    like_public: bool = False,
    members: Members | None = None,
    names: Names | None = None,
    checkpoint: Checkpoint | None = None,
    exists: Exists = os.path.exists,
) -> PublicRun:
    """Return the recipe of one stage that a command line of the public trainer describes.

    Args:
        words: the command line, without the program.
        stage: stage id or alias; empty tells it from what trains.
        settings: settings of the recipe, ``a.b=c``, laid over it.
        like_public: where flags contradict each other and the public code goes on all the same, so
            does the recipe.
        members: looks up what a name of the registry stands for; none takes it for a dataset.
        names: lists the names of a registry, where none was given.
        checkpoint: looks up what an earlier run left in the folders that a command line starts
            from; none takes them for checkpoints of the hub's kind.
        exists: whether there is something at a path; what a public script writes is refused where
            there is not.

    Raises:
        UserError: a flag is unknown or missing, flags contradict each other, or no recipe can say
            what they ask for.
        RecipeError: the settings do not fit.
    """
    arguments = parse_arguments(words)
    for name, what in _NEEDED.items():
        if name not in arguments.given:
            known = names(str(arguments["registry"])) if names and name == "dataset_use" else ()
            raise UserError(
                f"--{name} is missing",
                code="VT-USE-005",
                where="train",
                remedy=f"it names {what}" + (f", one of {', '.join(known)}" if known else ""),
            )
    zero = read_zero(arguments["deepspeed"]) if arguments["deepspeed"] else None
    if zero is not None:
        _check_file(zero, arguments)
    parts = trainable_parts(arguments, like_public=like_public)
    if arguments["vision_tower"] is None:
        parts = without_tower(arguments, parts)
    refuse_conflicts(Given(arguments, zero, tower_kind(arguments), parts), like_public=like_public)
    refuse_missing(arguments, parts)
    stage = _named(stage) if stage else stage_of(arguments, parts)
    content = _recipe(arguments, stage, parts, zero, like_public)
    if checkpoint is not None:
        start_from_runs(content, arguments, _MODULES[stage], checkpoint, exists)
    tree = Tree(content, "train")
    if members is not None:
        used = members(str(arguments["registry"]), str(arguments["dataset_use"]))
        tree.value["stages"][stage]["data"] = {
            name: times * arguments["data_ratio"] for name, times in used.items()
        }
    apply_overrides(tree, settings)
    fill_in_family(tree.value)
    recipe = validated(Recipe, tree)
    if recipe.stages[stage].batch.seq_len > recipe.model.llm.max_positions:
        raise UserError(
            f"{arguments.shown('model_max_length')} is more than the "
            f"{recipe.model.llm.max_positions} "
            "positions of the model",
            code="VT-USE-006",
            where="train",
            remedy="give less; --like-public does as the public code",
        )
    resumed = arguments["resume_from_checkpoint"]
    return PublicRun(
        recipe,
        stage,
        arguments.notes,
        arguments["cache_dir"],
        None if str(resumed).lower() in ("none", "true", "false") else str(resumed),
    )


def _check_file(zero: Zero, arguments: Arguments) -> None:
    """Hold a DeepSpeed file against the command line, and name what of it has no effect.

    Raises:
        UserError: the two disagree.
    """
    values = {flag: arguments[flag] for flag in FLAG_OF.values()}
    where = arguments.shown("deepspeed")
    if wrong := disagreements(zero, values, arguments["nnodes"] * arguments["nproc_per_node"]):
        raise UserError(
            "; ".join(wrong),
            code="VT-USE-219",
            where=where,
            remedy="make them agree, or write auto in the file",
        )
    if zero.ignored:
        arguments.note(f"{where}: no effect has {', '.join(zero.ignored)}")


def _named(name: str) -> str:
    try:
        return stage_name(name, PUBLIC_STAGES)
    except RecipeError:
        raise UserError(
            f"--stage {name} is none that the public trainer runs",
            code="VT-USE-007",
            where="train",
            remedy=f"its stages are {', '.join(PUBLIC_STAGES)}",
        ) from None


def stage_of(arguments: Arguments, parts: Sequence[str]) -> str:
    """Tell the stage from what trains; 1.2 differs from 1.3 by the projector file it starts
    from."""
    if "llm" not in parts:
        return (
            "2.1b"
            if {"audio_adapter", "audio_encoder", "audio_prompt", "state_head"} & {*parts}
            else "1.1"
        )
    if {"audio_adapter", "audio_encoder"} & {*parts}:
        return "2.2"
    return "1.2" if arguments["pretrain_mm_mlp_adapter"] else "1.3"


def _recipe(
    arguments: Arguments, stage: str, parts: Sequence[str], zero: Zero | None, like_public: bool
) -> dict[str, Any]:
    root, name = _place(arguments)
    dtype = "bfloat16" if arguments["bf16"] else "float32"
    return {
        "name": name,
        "seed": arguments["seed"],
        "storage": {"root": root, **_given(arguments, keep_last="save_total_limit")},
        "tokenizer": {"source": rooted(arguments["model_name_or_path"])},
        "model": model_of(arguments, dtype, like_public),
        "data": _data(arguments, like_public),
        "weights": _weights(arguments, stage, parts),
        "stages": {stage: _stage(arguments, stage, parts, zero, dtype)},
        "launch": {
            "nodes": arguments["nnodes"],
            "nproc": arguments["nproc_per_node"],
            "workers": arguments["dataloader_num_workers"],
            **_given(arguments, step_timeout="ddp_timeout"),
            **(
                {"settings": {"kubernetes": {"pod": {"env": {"NCCL_DEBUG": "INFO"}}}}}
                if arguments["debug_mode"]
                else {}
            ),
        },
        "tracking": _tracking(arguments, name),
    }


def _given(arguments: Arguments, **names: str) -> dict[str, Any]:
    """Return the settings whose flags were given, by the name of the setting."""
    return {setting: arguments[flag] for setting, flag in names.items() if flag in arguments.given}


def _place(arguments: Arguments) -> tuple[str, str]:
    """Return the storage root and the run's name: the two parts of ``output_dir``."""
    output = str(arguments["output_dir"]).rstrip("/")
    root, slash, last = output.rpartition("/")
    name = re.sub(r"[^a-z0-9._-]", "-", last.lower()).lstrip("._-")
    if not name or root.endswith(":/"):
        raise UserError(
            f"--output_dir {arguments['output_dir']} names no run",
            code="VT-USE-008",
            where="train",
            remedy="give a folder below the root of all runs, such as runs/mine",
        )
    if name != last:
        arguments.note(
            f"the run is called {name}: of --output_dir only small letters, digits, '.', '_' and "
            f"'-' can "
            "stand in the name of a run"
        )
    return (root or "/") if slash else ".", name


def _data(arguments: Arguments, like_public: bool) -> dict[str, Any]:
    if arguments["data_ratio"] <= 0:
        raise UserError(
            f"{arguments.shown('data_ratio')} leaves no data",
            code="VT-USE-009",
            where="train",
            remedy="give a share above 0, or more than 1 to repeat records",
        )
    if arguments["data_ratio"] > 1:
        arguments.note(f"{arguments.shown('data_ratio')} repeats records")
    aspect = arguments["image_aspect_ratio"]
    single = "pad" if aspect == "pad" else "crop" if like_public else "squash"
    if aspect not in (None, "pad") and not like_public:
        arguments.note(
            f"{arguments.shown('image_aspect_ratio')} cuts off the sides of images that are not "
            f"tiled in "
            "the public code; here they are scaled to a square (data.image.single_tile squash)"
        )
    return {
        "source": {
            "records": {
                "kind": "records",
                "registry": arguments["registry"],
                "image_folder": arguments["image_folder"],
            }
        },
        "template": template_of(arguments),
        "state_mode": state_mode_of(arguments),
        "image": {
            "min_tiles": arguments["min_dynamic_patch"],
            "max_tiles": arguments["max_dynamic_patch"],
            "thumbnail": arguments["use_thumbnail"],
            "single_tile": single,
        },
        "video": {
            **_given(arguments, fps="fps"),
            "min_frames": arguments["min_video_frames"],
            "max_frames": arguments["max_video_frames"],
            "tile_frames": arguments["tile_video"],
            "slowfast": arguments["slowfast"],
        },
        "audio": {"max_seconds": arguments["max_audio_seconds"]},
        "max_reject_share": arguments["max_reject_share"],
    }


def _weights(arguments: Arguments, stage: str, parts: Sequence[str]) -> dict[str, str]:
    """Return where the modules of the stage start from, other than those that come with a source of
    their own.

    A module that an earlier stage made is looked for in the checkpoint where no flag names it.
    """
    checkpoint = arguments["model_name_or_path"]
    flags = {
        "projector": "pretrain_mm_mlp_adapter",
        "audio_encoder": "audio_encoder",
        "audio_adapter": "pretrain_audio_mlp_adapter",
    }
    sees = arguments["vision_tower"] is not None
    made = {"projector"} if sees and stage in ("1.2", "1.3", "2.2") else set()
    if stage == "2.2" or (stage == "2.1b" and "audio_adapter" not in parts):
        made.add("audio_adapter")
    found = {}
    for name, flag in flags.items():
        source = arguments[flag] or (checkpoint if name in made else None)
        if source is None:
            continue
        if name in _MODULES[stage] or name in parts or (name == "projector" and "vision" in parts):
            found[name] = rooted(source)
        else:
            arguments.note(
                f"{arguments.shown(flag)} is not read: stage {stage} has no "
                f"{name.replace('_', ' ')}"
            )
    return found


def _stage(
    arguments: Arguments, stage: str, parts: Sequence[str], zero: Zero | None, dtype: str
) -> dict[str, Any]:
    ranks = arguments["nnodes"] * arguments["nproc_per_node"]
    grad_accum = arguments["gradient_accumulation_steps"]
    rows = arguments["per_device_train_batch_size"] * grad_accum * ranks
    arguments.note(
        f"stage {stage}, {PUBLIC_STAGES[stage]}: a global batch is {rows} rows, each of which "
        f"holds as many "
        f"samples as fit into {arguments['model_max_length']} positions"
    )
    steps: dict[str, Any] = {"epochs": arguments["num_train_epochs"]}
    if arguments["max_steps"] > 0:
        steps = {"steps": arguments["max_steps"]}
        if "num_train_epochs" in arguments.given:
            arguments.note(
                f"{arguments.shown('max_steps')} counts, not {arguments.shown('num_train_epochs')}"
            )
    if arguments["save_steps"] < 1 or arguments["save_steps"] % 1:
        raise UserError(
            f"not yet supported: {arguments.shown('save_steps')} (a share of all steps)",
            code="VT-USE-010",
            where="train",
            remedy="give a whole number of steps",
        )
    engine: dict[str, Any] = {
        "checkpoint_activations": arguments["gradient_checkpointing"],
        "dtype": "float16" if arguments["fp16"] else dtype,
    }
    if zero is not None:
        engine |= {"kind": "deepspeed", "zero": zero.stage, "offload": zero.offload}
    return {
        "objective": "next_token",
        "title": PUBLIC_STAGES[stage],
        "group": "see" if stage.startswith("1.") else "hear",
        "data": {arguments["dataset_use"]: arguments["data_ratio"]},
        "trainable": rates(parts, arguments),
        **adapted(arguments, parts),
        **steps,
        "batch": {
            "global_batch_size": rows,
            "grad_accum": grad_accum,
            "seq_len": arguments["model_max_length"],
            **(
                {"packing": False, "group_by_modality_length": True}
                if arguments["group_by_modality_length"]
                else {}
            ),
        },
        "optim": _optim(arguments, zero),
        "engine": engine,
        "eval": {"interval": _every(arguments)},
        "checkpoint_interval": int(arguments["save_steps"]),
    }


def _optim(arguments: Arguments, zero: Zero | None) -> dict[str, Any]:
    schedule, warmup = arguments["lr_scheduler_type"], arguments["warmup_ratio"]
    if not 0 <= warmup < 1:
        raise UserError(
            f"{arguments.shown('warmup_ratio')} is no share of the steps",
            code="VT-USE-011",
            where="train",
            remedy="give a number from 0 to below 1, or --warmup_steps",
        )
    if arguments["warmup_steps"] > 0:
        warmup = arguments["warmup_steps"]
        if "warmup_ratio" in arguments.given:
            arguments.note(
                f"{arguments.shown('warmup_steps')} counts, not {arguments.shown('warmup_ratio')}"
            )
    if zero is not None and zero.scheduler:
        schedule = zero.scheduler
    elif schedule == "constant" and warmup:
        arguments.note("--lr_scheduler_type constant has no warm-up; constant_with_warmup has")
        warmup = 0
    return {
        "kind": OPTIMIZERS[arguments["optim"]],
        "betas": [arguments["adam_beta1"], arguments["adam_beta2"]],
        "eps": arguments["adam_epsilon"],
        "weight_decay": arguments["weight_decay"],
        "max_grad_norm": arguments["max_grad_norm"],
        "schedule": "constant" if schedule.startswith("constant") else schedule,
        "warmup": warmup,
    }


def _every(arguments: Arguments) -> int:
    """Return the steps between measurements."""
    if arguments["eval_strategy"] == "no":
        return 0
    return max(1, int(arguments["eval_steps"] or arguments["logging_steps"]))


def _tracking(arguments: Arguments, name: str) -> dict[str, Any]:
    if arguments["debug_mode"]:
        return {"tensorboard": False}
    wanted = str(arguments["report_to"] or "tensorboard").split(",")
    unknown = [
        tracker for tracker in wanted if tracker not in ("none", "all", "tensorboard", "wandb")
    ]
    if unknown:
        raise UserError(
            f"not yet supported: --report_to {','.join(unknown)} (another tracker)",
            code="VT-USE-012",
            where="train",
            remedy="take tensorboard, wandb or none",
        )
    project = arguments["wandb_project"]
    if project is None and {"wandb", "all"} & {*wanted}:
        project = name
    return {
        "tensorboard": bool({"tensorboard", "all"} & {*wanted}),
        "wandb_project": project,
        **_given(arguments, run_name="run_name"),
    }
