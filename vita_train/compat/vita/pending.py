"""What the public flags can ask for and a recipe cannot say yet. An entry is widened or removed
once it can."""

from __future__ import annotations

from typing import NamedTuple

from vita_train.compat.vita.flags import OPTIMIZERS, Value
from vita_train.compat.vita.parse import Arguments
from vita_train.errors import UserError


class Pending(NamedTuple):
    """A flag of which recipes can express some values alone."""

    flag: str
    supported: tuple[Value, ...]
    what: str
    """What the other values ask for."""


PENDING: tuple[Pending, ...] = (
    Pending("optim", (*OPTIMIZERS,), f"another optimizer; there are {', '.join(OPTIMIZERS)}"),
    Pending(
        "lr_scheduler_type",
        ("cosine", "linear", "constant", "constant_with_warmup"),
        "another schedule",
    ),
    Pending("eval_strategy", ("no", "steps"), "measuring once an epoch; take steps"),
    Pending("save_strategy", ("steps",), "another time to save; take steps"),
)


def refuse_missing(arguments: Arguments, parts: tuple[str, ...]) -> None:
    """Refuse what cannot be said yet.

    Args:
        arguments: the command line.
        parts: what trains.

    Raises:
        UserError: naming each flag with what it asks for.
    """
    found = [
        f"{arguments.shown(entry.flag)} ({entry.what})"
        for entry in PENDING
        if arguments[entry.flag] not in entry.supported
    ]
    if ("llm" in parts) != ("lm_head" in parts):
        found.append(
            f"{arguments.shown('freeze_backbone')} (a head that trains while the llm is frozen)"
        )
    if found:
        raise UserError(f"not yet supported: {', '.join(found)}", code="VT-USE-019", where="train")
