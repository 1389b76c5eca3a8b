"""Vision towers and projectors of a recipe: what they take and give."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Discriminator, Field, Tag, field_validator

from vita_train.recipe.base import Strict
from vita_train.recipe.tower import TOWERS, TowerSpec
from vita_train.recipe.towers.internvit import InternVitSpec

#: The kind of settings that name none: VITA-1.5's own.
DEFAULT_TOWER = str(InternVitSpec.model_fields["kind"].default)


def _kind(value: Any) -> Any:
    return value.get("kind", DEFAULT_TOWER) if isinstance(value, dict) else getattr(value, "kind", None)


#: Settings of every kind of tower, those of plugins included.
if TYPE_CHECKING:
    VisionSpec = TowerSpec
else:
    VisionSpec = Annotated[
        Union[tuple(Annotated[TOWERS[name].spec, Tag(name)] for name in TOWERS)],  # noqa: UP007
        Discriminator(_kind),
    ]

_MLP = re.compile(r"mlp([1-9]\d?)x_gelu")
#: Projectors besides the perceptrons, and how many tokens of a square of ``side`` x ``side`` each leaves.
_POOLED = ("spp_v1", "spp_v2", "spp_v3")
_MERGED = ("vanilla", "minigpt")
_OTHERS = ("linear", *_POOLED, "ldp", *_MERGED, "identity")


class ProjectorSpec(Strict):
    """Vision features to language embeddings."""

    kind: str = Field(default="mlp2x_gelu", json_schema_extra={"pattern": f"^({_MLP.pattern}|{'|'.join(_OTHERS)})$"})
    """linear; mlpNx_gelu: N layers with GELU between; spp_v1, spp_v2, spp_v3: linear layers around 2 x 2 averages;
    ldp: perceptron and two depthwise blocks, the second halving the grid; vanilla, minigpt: four tokens in a row become
    one, with channels interleaved or not; identity: nothing, where the widths agree."""

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind not in _OTHERS and not _MLP.fullmatch(kind):
            raise ValueError(f"there is no projector {kind!r}; there are mlpNx_gelu (N from 1 to 99), "
                             f"{', '.join(_OTHERS)}")
        return kind

    @property
    def depth(self) -> int:
        """Linear layers of a perceptron; 0 for other kinds."""
        match = _MLP.fullmatch(self.kind)
        return int(match[1]) if match else 0

    def num_tokens(self, side: int) -> int:
        """Return the tokens left of a square of ``side`` x ``side``.

        Raises:
            ValueError: the projector cannot take a square of that side.
        """
        if self.kind in _POOLED:
            if side < 2:
                raise ValueError(f"projector {self.kind} averages 2 x 2 tokens, the tower gives {side} x {side}")
            return (side // 2) ** 2
        if self.kind == "ldp":
            return (-(-side // 2)) ** 2
        if self.kind in _MERGED:
            if side % 2:
                raise ValueError(f"projector {self.kind} merges four tokens to one, the tower gives {side} x {side}")
            return side**2 // 4
        return side**2
