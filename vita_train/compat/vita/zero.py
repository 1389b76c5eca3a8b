"""What a DeepSpeed configuration file says that a recipe can say as well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vita_train.errors import UserError

Offload = Literal["none", "optimizer", "all"]


class Zero(NamedTuple):
    """The settings of a DeepSpeed file that matter here."""

    stage: int
    offload: Offload
    scheduler: str
    """The ``--lr_scheduler_type`` that a scheduler in the file amounts to; empty if there is
    none."""


#: DeepSpeed's schedulers by the library's names.
_SCHEDULERS = {
    "WarmupDecayLR": "linear",
    "WarmupCosineLR": "cosine",
    "WarmupLR": "constant_with_warmup",
}

#: The public code's own files, known by name where they are not at hand.
SHIPPED: dict[str, Zero] = {
    "zero2.json": Zero(2, "none", ""),
    "zero3.json": Zero(3, "none", ""),
    "ds_config_zero3.json": Zero(3, "none", "linear"),
    "ds_config_zero3_offload.json": Zero(3, "all", "linear"),
    "ds_config_zero3_offload2.json": Zero(3, "optimizer", "linear"),
}


def read_zero(name: str) -> Zero:
    """Read a DeepSpeed file; those of the public code need not be there.

    Raises:
        UserError: it cannot be read, or says something that is not understood.
    """
    path = Path(name).expanduser()
    where = f"--deepspeed {name}"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if path.name in SHIPPED:
            return SHIPPED[path.name]
        raise UserError(
            "there is no such file",
            code="VT-USE-022",
            where=where,
            remedy=f"give a DeepSpeed file, or one of {', '.join(SHIPPED)}",
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(
            "is not a JSON file that can be read", code="VT-USE-023", where=where
        ) from error
    zero = _mapping(config, "zero_optimization", where)
    stage = zero.get("stage", 0)
    if stage not in (0, 1, 2, 3):
        raise UserError(
            f"zero_optimization.stage is {stage!r}",
            code="VT-USE-024",
            where=where,
            remedy="it is 0, 1, 2 or 3",
        )
    parameters = _is_offloaded(zero, "offload_param", where)
    optimizer = _is_offloaded(zero, "offload_optimizer", where)
    if parameters and not optimizer:
        raise UserError(
            "parameters are offloaded without the optimizer's state",
            code="VT-USE-025",
            where=where,
            remedy="offload both, or the optimizer alone",
        )
    offload: Offload = "all" if parameters else "optimizer" if optimizer else "none"
    scheduler = _mapping(config, "scheduler", where).get("type")
    if scheduler is not None and scheduler not in _SCHEDULERS:
        raise UserError(
            f"not yet supported: scheduler {scheduler}",
            code="VT-USE-026",
            where=where,
            remedy="remove it from the file",
        )
    return Zero(stage, offload, _SCHEDULERS[scheduler] if scheduler else "")


def _is_offloaded(zero: dict[str, Any], key: str, where: str) -> bool:
    return _mapping(zero, key, where).get("device", "none") != "none"


def _mapping(value: Any, key: str, where: str) -> dict[str, Any]:
    inner = value.get(key, {}) if isinstance(value, dict) else None
    if not isinstance(inner, dict):
        raise UserError(f"{key} is no JSON object", code="VT-USE-027", where=where)
    return inner
