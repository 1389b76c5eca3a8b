"""InternViT, the tower of VITA-1.5."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vita_train.recipe.base import Dropout, Size
from vita_train.recipe.tower import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Means,
    ReleaseNames,
    Rule,
    Stds,
    TowerKind,
    TowerSpec,
    register_tower,
)

#: transformers' InternVLVisionModel, as ours has it, to the code of OpenGVLab that InternViT was
#: released with.
RULES: tuple[Rule, ...] = (
    (r"model\.embeddings\.cls_token", "embeddings.class_embedding", ""),
    (r"model\.embeddings\.position_embeddings", "embeddings.position_embedding", ""),
    (
        r"model\.embeddings\.patch_embeddings\.projection\.(\w+)",
        r"embeddings.patch_embedding.\1",
        "",
    ),
    (
        r"model\.encoder\.layer\.(\d+)\.attention\.(?P<part>[qkv])_proj\.(\w+)",
        r"encoder.layers.\1.attn.qkv.\3",
        "qkv",
    ),
    (
        r"model\.encoder\.layer\.(\d+)\.attention\.projection_layer\.(\w+)",
        r"encoder.layers.\1.attn.proj.\2",
        "",
    ),
    (r"model\.encoder\.layer\.(\d+)\.layernorm_before\.(\w+)", r"encoder.layers.\1.norm1.\2", ""),
    (r"model\.encoder\.layer\.(\d+)\.layernorm_after\.(\w+)", r"encoder.layers.\1.norm2.\2", ""),
    (r"model\.encoder\.layer\.(\d+)\.mlp\.(fc[12])\.(\w+)", r"encoder.layers.\1.mlp.\2.\3", ""),
    (r"model\.encoder\.layer\.(\d+)\.lambda_([12])", r"encoder.layers.\1.ls\2", ""),
)


class InternVitSpec(TowerSpec):
    """InternViT (transformers' InternVLVisionModel) with its pixel shuffle."""

    kind: Literal["internvit"] = "internvit"
    image_size: Size = 448
    """Side of a tile, pixels."""
    patch_size: Size = 14
    hidden_size: Size = 1024
    num_layers: Size = 24
    num_heads: Size = 16
    intermediate_size: Size = 4096
    drop_path: Dropout = 0.1
    """Stochastic depth of the last block while training; it grows linearly from 0 at the first."""
    feature_scale: float = Field(default=0.5, gt=0, le=1000)
    """Factor on the features before the pixel shuffle; part of the released weights' function."""
    shuffle: Size = 2
    """Side of the square of patches folded into one token."""
    mean: Means = IMAGENET_MEAN
    std: Stds = IMAGENET_STD

    @property
    def grid_size(self) -> int:
        """Side of the square of shuffled tokens: 16 for 448 px, patch 14, shuffle 2."""
        return self.image_size // self.patch_size // self.shuffle

    @property
    def feature_size(self) -> int:
        """Width of one shuffled token: 4096 for the 300M tower."""
        return self.hidden_size * self.shuffle**2

    @property
    def released_activation(self) -> str:
        """As transformers names it."""
        return "gelu"

    @property
    def norm_eps(self) -> float:
        """What the layer norms add to variances."""
        return 1e-6

    @model_validator(mode="after")
    def _grid(self) -> InternVitSpec:
        if self.image_size % (self.patch_size * self.shuffle):
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size x shuffle "
                f"({self.patch_size} x {self.shuffle})"
            )
        return self


register_tower(
    TowerKind(
        InternVitSpec,
        "vita_train.models.vision.internvit:InternVitTower",
        ReleaseNames(rules=RULES, model_types=("intern_vit_6b", "internvl_vision")),
    )
)
