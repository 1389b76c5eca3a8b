"""CLIP's image encoder."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from vita_train.recipe.base import Size
from vita_train.recipe.tower import (
    CLIP_MEAN,
    CLIP_STD,
    ContrastiveSpec,
    Means,
    ReleaseNames,
    Stds,
    TowerKind,
    check_whole_patches,
    register_tower,
)


class ClipSpec(ContrastiveSpec):
    """CLIP (transformers' CLIPVisionModel); ViT-L/14 at 336 pixels by default."""

    kind: Literal["clip"] = "clip"
    image_size: Size = 336
    """Side of a tile, pixels."""
    patch_size: Size = 14
    hidden_size: Size = 1024
    num_layers: Size = 24
    num_heads: Size = 16
    intermediate_size: Size = 4096
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    """quick_gelu: OpenAI's weights. gelu: most others."""
    mean: Means = CLIP_MEAN
    std: Stds = CLIP_STD

    @property
    def released_activation(self) -> str:
        """As transformers names it."""
        return self.activation

    @model_validator(mode="after")
    def _grid(self) -> ClipSpec:
        check_whole_patches(self)
        return self


register_tower(
    TowerKind(
        ClipSpec,
        "vita_train.models.vision.clip:ClipTower",
        ReleaseNames(
            unused=r"head\.|post_layernorm\.|embeddings\.position_ids$",
            model_types=("clip_vision_model",),
        ),
    )
)
