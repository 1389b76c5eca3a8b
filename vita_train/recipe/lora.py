"""Parameter-efficient training: low-rank adapters, and quantised weights below them."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Literal

from pydantic import ValidationInfo, field_validator

from vita_train.recipe.base import Dropout, Size, Strict

#: Modules that can carry adapters, and the roles that their linear layers play.
ROLES: dict[str, tuple[str, ...]] = {
    "llm": ("attention", "mlp"),
    "vision": ("attention", "mlp"),
    "audio_encoder": ("attention", "mlp"),
}


class LoraSpec(Strict):
    """Low-rank adapters (Hu et al. 2021): frozen matrices W become W + alpha / rank * B A, and only
    A and B train.

    In the stage's trainable map the rate of a module named here is that of its adapters.
    """

    rank: Size = 64
    alpha: Size = 16
    dropout: Dropout = 0.05
    """Share of an adapter's inputs that are dropped in training."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """all: the biases of the modules train too, and are saved with the adapter. lora_only: those of
    the layers that get adapters."""
    modules: tuple[str, ...] = ("llm",)
    """Modules that get adapters; other modules of the trainable map train in full."""
    roles: tuple[str, ...] = ("attention", "mlp")
    """Linear layers that get them. attention: projections of queries, keys, values and output. mlp:
    feed-forward."""

    @field_validator("modules")
    @classmethod
    def _known_modules(cls, modules: tuple[str, ...]) -> tuple[str, ...]:
        if not modules:
            raise ValueError("names no module: leave lora out to train in full")
        unknown = [name for name in modules if name not in ROLES]
        if unknown:
            raise ValueError(f"{_listed(unknown)} cannot have adapters; {_listed(list(ROLES))} can")
        return modules

    @field_validator("roles")
    @classmethod
    def _known_roles(cls, roles: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not roles:
            raise ValueError("names no role: the adapters would have no place")
        # modules is missing here where it was refused itself: one problem is told, not two
        for name in info.data.get("modules", ()):
            unknown = [role for role in roles if role not in ROLES[name]]
            if unknown:
                near = get_close_matches(unknown[0], ROLES[name], n=1)
                hint = (
                    f"did you mean {near[0]!r}?" if near else f"it has {_listed(list(ROLES[name]))}"
                )
                raise ValueError(f"{name} has no layers of role {unknown[0]!r}; {hint}")
        return roles


class QuantizeSpec(Strict):
    """Store the matrices of the language model in 4 or 8 bit while a stage trains (bitsandbytes).

    Head, embeddings, norms, biases, adapters and all other modules stay as they are. What the stage
    hands on rests on the weights as they were before.
    """

    kind: Literal["nf4", "fp4", "int8"]
    """nf4, fp4: 4 bit in blocks of 64 (Dettmers et al. 2023). int8: 8 bit a row, outliers above 6
    apart (LLM.int8)."""
    double: bool = True
    """4 bit: store the scales of the blocks in 8 bit too."""

    @property
    def bits(self) -> int:
        """Bits of a weight."""
        return 8 if self.kind == "int8" else 4


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
