"""SigLIP."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from vita_train.recipe.base import Size
from vita_train.recipe.tower import (
    ContrastiveSpec,
    Means,
    ReleaseNames,
    Stds,
    TowerKind,
    register_tower,
)


class SiglipSpec(ContrastiveSpec):
    """SigLIP (transformers' SiglipVisionModel), at one scale or several; so400m-patch14-384 by
    default."""

    kind: Literal["siglip"] = "siglip"
    image_size: Size = 384
    """Side of the tower's input, pixels. What is left of it beyond whole patches (6 of 384) is not
    seen."""
    patch_size: Size = 14
    hidden_size: Size = 1152
    num_layers: Size = 27
    num_heads: Size = 16
    intermediate_size: Size = 4304
    mean: Means = (0.5, 0.5, 0.5)
    std: Stds = (0.5, 0.5, 0.5)
    scales: tuple[Size, ...] = ()
    """S2: sides that a tile is seen at, rising from image_size in multiples of it (VITA-1.5: 384,
    768, 1152). Tiles are cut at the largest; larger views pass in squares of image_size; the
    features of all are joined."""

    @property
    def tile_size(self) -> int:
        """Side of a tile as data preparation cuts it: that of the largest scale."""
        return self.scales[-1] if self.scales else self.image_size

    @property
    def feature_size(self) -> int:
        """Width of one token: 3456 for so400m at three scales."""
        return self.hidden_size * max(1, len(self.scales))

    @property
    def merges(self) -> bool:
        """At one scale: features of several are joined place by place."""
        return not self.scales

    @property
    def class_tokens(self) -> int:
        """It has none."""
        return 0

    @property
    def positions(self) -> int:
        """Of all squares of all scales."""
        views = self.scales or (self.image_size,)
        return super().positions * sum((side // self.image_size) ** 2 for side in views)

    @property
    def released_activation(self) -> str:
        """As transformers names it."""
        return "gelu_pytorch_tanh"

    @property
    def norm_eps(self) -> float:
        """What the layer norms add to variances."""
        return 1e-6

    @model_validator(mode="after")
    def _scales(self) -> SiglipSpec:
        if self.scales and self.scales[0] != self.image_size:
            raise ValueError(
                f"scales begin with {self.scales[0]}, not with image_size {self.image_size}"
            )
        wrong = [side for side in self.scales if side % self.image_size]
        if wrong or list(self.scales) != sorted(set(self.scales)):
            raise ValueError(
                f"scales {list(self.scales)} do not rise in multiples of image_size "
                f"{self.image_size}"
            )
        return self


register_tower(
    TowerKind(
        SiglipSpec,
        "vita_train.models.vision.siglip:SiglipTower",
        ReleaseNames(
            unused=r"head\.|post_layernorm\.|embeddings\.position_ids$",
            model_types=("siglip_vision_model",),
        ),
    )
)
