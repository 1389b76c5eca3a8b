"""``docs/public-arguments.md``, made from the tables of this package."""

from __future__ import annotations

from collections.abc import Iterable

from vita_train.compat.vita.conflicts import CONFLICTS
from vita_train.compat.vita.flags import FLAGS, GROUPS, RENAMED, Flag
from vita_train.compat.vita.pending import PENDING
from vita_train.compat.vita.scripts import ALIASES, describe_scripts

_OPENING = """\
# The public trainer's arguments

`vita-train train --FLAG VALUE ...` takes the command line of the public trainer and makes a recipe
of one stage from it. The recipe is printed; then its data are prepared and the stage runs as with
`vita-train launch`. `--dry-run` ends after the recipe, `--save FILE` writes it, `--set KEY=VALUE`
changes a setting of it, `--stage ID` names the stage where the flags do not tell it. Notes on what
a flag does here that it did not do there go to the standard error.

Flags are read as `HfArgumentParser` reads them, with these differences: a shortened name is
refused, and so are flags that contradict each other. Where the public code goes on in spite of a
contradiction, `--like-public` does the same.

This page is made from the code by `vita-train train --flags`; a test keeps it in step.
"""
_CHAIN = """\
## Going on from a stage of ours

The public scripts hand files from one to the next. Here the weights of a module are named by the
folder of the stage that trained it, whichever run it belongs to:

```
vita-train train --pretrain_mm_mlp_adapter runs/s1/1.1 --output_dir runs/s2 ...
vita-train train --model_name_or_path Qwen/Qwen2.5-7B-Instruct --set weights.llm=runs/s2/1.2 \\
  --set weights.vision=runs/s2/1.2 --pretrain_mm_mlp_adapter runs/s2/1.2 --output_dir runs/s3 ...
```
"""
_TRAINS = """\
## Which modules train

Each line may undo an earlier one, as in the public code.

| | Condition | Effect |
|---|---|---|
| 0 | always | the llm with its head and the projector train; the tower does not; the audio \
encoder and its adapter as `freeze_audio_encoder` and `freeze_audio_encoder_adapter` say |
| 1 | `freeze_backbone` | the llm does not train (the public code lets its head train on) |
| 2 | `tune_mm_mlp_adapter` | the projector alone |
| 3 | `tune_audio_mlp_adapter` | the audio adapter alone |
| 4 | `audio_prompt_finetune`, `audio_state_predictor_tuning` | \
the audio prompt, the state head, or both alone |
| 5 | `freeze_mm_mlp_adapter` | the projector does not train |
| 6 | `unfreeze_vision_tower` | the tower trains, whatever was said before |

A flag that another one undoes is refused with both names, unless `--like-public` is given. Every
module that trains has the rate `learning_rate`, but for the vision tower where `mm_projector_lr` is
given.
"""


def document() -> str:
    """Return the page."""
    parts = [_OPENING]
    for group, title in GROUPS.items():
        parts.append(
            f"## {title}\n\n"
            + _table(
                ("Flag", "Default", "Here"),
                (
                    (f"`{flag.name}`", _default(flag), _here(flag))
                    for flag in FLAGS.values()
                    if flag.group == group
                ),
            )
        )
    parts.append(
        "## Old names\n\n"
        + _table(("Flag", "Is read as"), ((f"`{old}`", f"`{new}`") for old, new in RENAMED.items()))
    )
    parts += [_TRAINS, _CHAIN]
    parts.append(
        "## Contradictions\n\n"
        + _table(
            ("Flags", "Why", "With `--like-public`"),
            (
                (
                    f"`{conflict.first}`, `{conflict.second}`",
                    conflict.why,
                    "goes on" if conflict.is_public else "refused",
                )
                for conflict in CONFLICTS
            ),
        )
    )
    parts.append(
        "## Not yet supported\n\n"
        + _table(
            ("Flag", "Supported", "All else is"),
            (
                (
                    f"`{entry.flag}`",
                    ", ".join(f"`{value}`" for value in entry.supported if value is not None),
                    entry.what,
                )
                for entry in PENDING
            ),
        )
    )
    parts.append(
        "## The public scripts\n\n"
        "Each is a recipe by its name: `vita-train recipe show finetune_qwen`. "
        + "".join(f"`{alias}` stands for `{name}`. " for alias, name in ALIASES.items())
        + "Paths in them are placeholders.\n\n"
        + _table(
            ("Script", "Here"),
            (
                (f"`{name}.sh`", text.removeprefix("Public script. "))
                for name, text in describe_scripts().items()
            ),
        )
    )
    return "\n".join(parts)


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _default(flag: Flag) -> str:
    return f"`{flag.default}`" if flag.default not in (None, "") else ""


def _here(flag: Flag) -> str:
    if flag.becomes == "nothing":
        return flag.note
    return f"{flag.becomes}; {flag.note}" if flag.note else flag.becomes
