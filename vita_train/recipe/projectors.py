"""The kinds of projectors: how many of the tower's tokens each leaves, and what builds it.

A package outside this one adds a kind by calling `register_projector` from its plugin
(`vita_train.plugins`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from vita_train.plugins import Registry


def _all(side: int) -> int:
    return side**2


@dataclass(frozen=True)
class ProjectorKind:
    """One kind of projector, or a family of kinds whose names carry a number."""

    name: str
    """As ``model.projector.kind`` has it, or what stands for a family in messages."""
    implementation: str
    """``package.module:function``, called as ``build(features, width, kind)`` with the widths of a
    token before and after; the module takes (N, tokens, features), tokens a square row by row, and
    gives (N, num_tokens, width)."""
    num_tokens: Callable[[int], int] = _all
    """Tokens left of a square of ``side`` x ``side``; a ValueError says what it cannot take, as the
    end of a sentence that begins with the projector's name."""
    pattern: str = ""
    """Of the names of a family; the name when empty."""
    weightless: bool = False
    """Whether it hands features on as they are: there is nothing to train, and both widths must be
    the same."""

    in_vita: bool = False
    """Whether VITA-1.5's code has it too, so that the layout of its release can name it."""

    @property
    def names(self) -> str:
        """Pattern of the names it answers to."""
        return self.pattern or re.escape(self.name)


PROJECTORS: Registry[ProjectorKind] = Registry("projector")


def register_projector(kind: ProjectorKind) -> None:
    """Add a kind of projector.

    Raises:
        VitaError: its name is taken.
    """
    PROJECTORS.add(kind.name, kind)


def projector_of(kind: str) -> ProjectorKind | None:
    """Return the kind that answers to a name; None if there is none."""
    return next(
        (PROJECTORS[name] for name in PROJECTORS if re.fullmatch(PROJECTORS[name].names, kind)),
        None,
    )


def _averaged(side: int) -> int:
    if side < 2:
        raise ValueError(f"averages 2 x 2 tokens, the tower gives {side} x {side}")
    return (side // 2) ** 2


def _merged(side: int) -> int:
    if side % 2:
        raise ValueError(f"merges four tokens to one, the tower gives {side} x {side}")
    return side**2 // 4


def _halved(side: int) -> int:
    return (-(-side // 2)) ** 2


_MODULE = "vita_train.models.vision.projector"
for _kind in (
    ProjectorKind(
        "mlpNx_gelu (N from 1 to 99)",
        f"{_MODULE}:build_perceptron",
        pattern=r"mlp[1-9]\d?x_gelu",
        in_vita=True,
    ),
    ProjectorKind("linear", f"{_MODULE}:build_linear", in_vita=True),
    *(
        ProjectorKind(f"spp_v{version}", f"{_MODULE}:build_spp", _averaged, in_vita=True)
        for version in (1, 2, 3)
    ),
    ProjectorKind("ldp", f"{_MODULE}:build_ldp", _halved, in_vita=True),
    *(
        ProjectorKind(name, f"{_MODULE}:build_merge", _merged, in_vita=True)
        for name in ("vanilla", "minigpt")
    ),
    ProjectorKind("mlp_downsample", f"{_MODULE}:build_downsample", _halved),
    ProjectorKind("identity", f"{_MODULE}:build_identity", weightless=True, in_vita=True),
):
    register_projector(_kind)
