"""What transformers found in a source, held against what the model needs: nothing stays random
without a word."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from vita_train.errors import CheckpointError

#: Names that a message shows; the rest is counted.
_SHOWN = 6
#: Buffers that older releases wrote and no model reads any more.
_HARMLESS = (r"rotary_emb\.inv_freq$", r"\.masked_bias$", r"\.attn\.bias$", r"position_ids$")


def check_loaded(
    model: nn.Module,
    *,
    missing: Iterable[str],
    unexpected: Iterable[str],
    mismatched: Iterable[str],
    where: str,
    setting: str,
    ignore: Sequence[str] = (),
) -> None:
    """Refuse a model that was not loaded whole from a source, or that took values which are not
    finite, or matrices of zeros.

    Args:
        model: as loaded.
        missing: tensors of the model that the source lacks; tied ones are not among them.
        unexpected: tensors of the source that the model has no place for.
        mismatched: tensors of another shape.
        where: the source.
        setting: settings of the recipe that the source belongs to, such as ``model.llm``.
        ignore: patterns (``re.search``) of tensors of the source that may go unused, or be zero.

    Raises:
        CheckpointError: with the names of the tensors, and what to set.
    """
    absent, wrong = sorted(missing), sorted(mismatched)
    unused = sorted(
        name
        for name in unexpected
        if not any(re.search(pattern, name) for pattern in (*_HARMLESS, *ignore))
    )
    problems = [
        f"{len(names)} tensors {what}: {_shown(names)}"
        for names, what in (
            (absent, "are missing and would stay random"),
            (unused, "would go unused"),
            (wrong, "have another shape"),
        )
        if names
    ]
    if problems:
        raise CheckpointError(
            "; ".join(problems),
            code="VT-WEIGHTS-006",
            where=where,
            remedy=_remedy(absent, unused, setting),
        )
    check_finite(model, where=where)
    empty = sorted(
        name
        for name, tensor in model.named_parameters()
        # Biases and norms may rightly be zero, matrices are not
        if tensor.ndim == 2
        and not bool(tensor.any())
        and not any(re.search(pattern, name) for pattern in ignore)
    )
    if empty:
        raise CheckpointError(
            f"{len(empty)} matrices hold nothing but zeros: {_shown(empty)}",
            code="VT-WEIGHTS-095",
            where=where,
            remedy="so ends a file that was not fetched whole: fetch it again; if they are meant, "
            f"name patterns of them: {setting}.ignore=['name\\.']",
        )


def check_finite(model: nn.Module, *, where: str) -> None:
    """Refuse weights that are not finite.

    Raises:
        CheckpointError: with the names of the tensors that hold NaN or infinity.
    """
    check_finite_tensors(dict(model.named_parameters()), where=where)


def check_finite_tensors(tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Refuse tensors that are not finite; as `check_finite` raises."""
    bad = [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    ]
    if bad:
        raise CheckpointError(
            f"{len(bad)} tensors hold values that are not finite: {_shown(bad)}",
            code="VT-WEIGHTS-007",
            where=where,
            remedy="get the weights again, or take an earlier checkpoint of them",
        )


def common_prefix(missing: Sequence[str], unused: Sequence[str]) -> str | None:
    """Return what stands before the names of a source that would fit without it; None if that is
    not the fault."""
    wanted = set(missing)
    if not wanted:
        return None
    # Every prefix that fits one of ours; which of ours does not matter, since all have to fit
    first = min(wanted)
    for name in sorted(unused):
        if name.endswith(f".{first}"):
            prefix = name.removesuffix(first)
            found = {other.removeprefix(prefix) for other in unused if other.startswith(prefix)}
            if wanted <= found:
                return prefix
    return None


def prefix_remedy(missing: Sequence[str], unused: Sequence[str]) -> str:
    """Return what to do where all names of a file only have something before them; empty if that is
    not the fault."""
    prefix = common_prefix(missing, unused)
    return f"every name begins with {prefix!r}: write the file again without it" if prefix else ""


def _remedy(missing: Sequence[str], unused: Sequence[str], setting: str) -> str:
    if prefix := common_prefix(missing, unused):
        others = sorted(
            {
                f"^{re.escape(name.split('.')[0])}\\."
                for name in unused
                if not name.startswith(prefix)
            }
        )
        also = f" and {setting}.ignore={others}" if others else ""
        return f"every name begins with {prefix!r}: set {setting}.prefix={prefix}{also}"
    if not missing:
        return (
            f"if that is meant, name patterns of what may go unused: "
            f"{setting}.ignore=['^name\\.']; else give the "
            "whole model's shape"
        )
    return "get the whole checkpoint, or train the module from nothing without a source"


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
