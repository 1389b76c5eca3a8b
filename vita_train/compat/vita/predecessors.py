"""What a command line of the public trainer starts from that an earlier one left: found in the
folders of runs, or named with the script that makes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from vita_train.compat.vita.parse import Arguments
from vita_train.errors import UserError

#: Folders that the public scripts write, and the script of the Qwen family that writes each.
_WRITTEN_BY = {
    "llava-s1-pretrain_mlp_video": "pretrain_mlp_qwen.sh",
    "llava-s2-pretrain_video": "finetune_qwen.sh",
    "llava-s3-finetune_task": "finetuneTask_qwen.sh",
    "llava-s1-pretrain_audio_mlp": "pretrain_audio_mlp_qwen.sh",
    "llava-s3-finetune_task_neg": "finetuneTaskNeg_qwen.sh",
}
#: Where 2.2 finds the adapter that its own base does not hold, beside the run.
_ADAPTER_RUN = "llava-s1-pretrain_audio_mlp"
_FLAGS = {
    "projector": "pretrain_mm_mlp_adapter",
    "audio_adapter": "pretrain_audio_mlp_adapter",
}


class TrainedBefore(NamedTuple):
    """What an earlier run left."""

    modules: Mapping[str, str]
    """Module to the folder of the stage that trained it last, or to where the run had it from."""
    source: str | None
    """Where the run's language model came from."""
    tokenizer: str | None


Checkpoint = Callable[[str], TrainedBefore | None]
"""What a run of ours left in a folder; none where there is none, or it is no run's."""
Exists = Callable[[str], bool]


def start_from_runs(
    recipe: dict[str, Any],
    arguments: Arguments,
    modules: Sequence[str],
    checkpoint: Checkpoint,
    exists: Exists,
) -> None:
    """Let a recipe's stage start from what earlier runs trained, where the command line names
    their folders as the public scripts do.

    Args:
        recipe: of the command line; changed in place.
        arguments: the command line.
        modules: of the stage's model, beside the language model.
        checkpoint: looks up a run.
        exists: whether there is something at a path.

    Raises:
        UserError: a folder that one of the public scripts writes is not there.
    """
    base = str(arguments["model_name_or_path"])
    before = checkpoint(base)
    if before is None:
        _refuse_missing(base, "model_name_or_path", exists)
    else:
        # What a run trained itself comes from its stage, and from nowhere else.
        recipe["model"]["llm"]["source"] = None if "llm" in before.modules else before.source
        if "vision" in before.modules:
            recipe["model"]["vision"]["source"] = None
        recipe["tokenizer"] = {"source": before.tokenizer}
        trained = {
            name: before.modules[name]
            for name in ("llm", "vision", *modules)
            if name in before.modules
        }
        given = {name for name, flag in _FLAGS.items() if flag in arguments.given}
        recipe["weights"] |= {name: folder for name, folder in trained.items() if name not in given}
        for name in _FLAGS:  # what the base was to hold and does not
            if name not in given and name not in trained and recipe["weights"].get(name) == base:
                recipe["weights"].pop(name)
    for name, flag in _FLAGS.items():
        if source := arguments[flag]:
            found = checkpoint(source) or checkpoint(str(PurePath(source).parent))
            if found is not None and name in found.modules and not exists(source):
                recipe["weights"][name] = found.modules[name]
            elif found is None:
                _refuse_missing(source, flag, exists)
    if (
        before is not None
        and "audio_adapter" in modules
        and "audio_adapter" not in recipe["weights"]
    ):
        _adapter_beside(recipe, arguments, checkpoint)


def _adapter_beside(recipe: dict[str, Any], arguments: Arguments, checkpoint: Checkpoint) -> None:
    """Take the adapter, and the encoder it was trained with, from the run beside this one that the
    public scripts train it in."""
    folder = str(PurePath(str(arguments["output_dir"])).parent / _ADAPTER_RUN)
    found = checkpoint(folder)
    if found is None or "audio_adapter" not in found.modules:
        raise _missing(folder, "pretrain_audio_mlp_adapter")
    recipe["weights"]["audio_adapter"] = found.modules["audio_adapter"]
    if "audio_encoder" in found.modules and "audio_encoder" not in recipe["weights"]:
        recipe["weights"]["audio_encoder"] = found.modules["audio_encoder"]
    arguments.note(f"the audio adapter comes from {folder}")


def _refuse_missing(source: str, flag: str, exists: Exists) -> None:
    """Refuse a path that is not there and that one of the public scripts would have written."""
    if not exists(source) and any(part in _WRITTEN_BY for part in PurePath(source).parts):
        raise _missing(source, flag)


def _missing(source: str, flag: str) -> UserError:
    script = next(_WRITTEN_BY[part] for part in PurePath(source).parts if part in _WRITTEN_BY)
    return UserError(
        f"--{flag} {source} is not there, nor a run of this package with what it should hold",
        code="VT-USE-235",
        where="train",
        remedy=f"run {script} first, which writes it",
    )
