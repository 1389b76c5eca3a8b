"""EVA-02-CLIP."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from vita_train.recipe.base import Size
from vita_train.recipe.tower import ReleaseNames, TowerKind, ViTLargeSpec, register_tower


class EvaClipSpec(ViTLargeSpec):
    """EVA-02-CLIP; L/14 at 336 pixels by default."""

    kind: Literal["eva_clip"] = "eva_clip"
    intermediate_size: Size = 2730
    rope_grid: Size = 16
    """Side of the grid that the rotary positions were trained on; a tile's own grid is laid over
    it."""

    @property
    def released_activation(self) -> str:
        """As transformers names it."""
        return "silu"

    @property
    def norm_eps(self) -> float:
        """What the layer norms add to variances."""
        return 1e-6

    @model_validator(mode="after")
    def _rotary(self) -> EvaClipSpec:
        if self.hidden_size % (4 * self.num_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of 4 x num_heads "
                f"{self.num_heads}: "
                "each head turns pairs of channels by row and by column"
            )
        return self


register_tower(
    TowerKind(
        EvaClipSpec,
        "vita_train.models.vision.eva_clip:EvaClipTower",
        ReleaseNames(
            markers=("vision_tower.", "visual."),
            renamed=(
                (r"^model\.", ""),  # VITA's wrapper
                # Keys have no bias in EVA; the release keeps the other two beside the matrices
                (r"\.attn\.([qv])_bias$", r".attn.\1_proj.bias"),
            ),
            unused=r"head\.|norm\.|(blocks\.\d+\.attn\.)?rope\.",
            block=r"blocks\.(\d+)\.",
        ),
    )
)
