"""CLIP's image encoder."""

from __future__ import annotations

from typing import Literal

from vita_train.recipe.base import Size
from vita_train.recipe.tower import ReleaseNames, TowerKind, ViTLargeSpec, register_tower


class ClipSpec(ViTLargeSpec):
    """CLIP (transformers' CLIPVisionModel); ViT-L/14 at 336 pixels by default."""

    kind: Literal["clip"] = "clip"
    intermediate_size: Size = 4096
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    """quick_gelu: OpenAI's weights. gelu: most others."""

    @property
    def merges(self) -> bool:
        """It can."""
        return True

    @property
    def released_activation(self) -> str:
        """As transformers names it."""
        return self.activation

    @property
    def norm_eps(self) -> float:
        """What the layer norms add to variances."""
        return 1e-5


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
