"""InternViT as in transformers, then pixel shuffle."""

from __future__ import annotations

from torch import Tensor, nn

from vita_train.models.attention.packed import tiles_name
from vita_train.models.vision.stochastic_depth import StochasticDepth, depth_rates
from vita_train.models.vision.tower import VisionTower
from vita_train.recipe.towers.internvit import InternVitSpec


class InternVitTower(VisionTower):
    """InternViT-300M (Chen et al. 2023), the tower of VITA-1.5.

    The last layer's features, class token dropped, times ``feature_scale`` (0.5 in VITA-1.5: part
    of the function its weights were trained with), folded ``shuffle`` x ``shuffle`` patches to a
    token.
    """

    spec: InternVitSpec

    def __init__(self, spec: InternVitSpec) -> None:
        from transformers.models.internvl.configuration_internvl import InternVLVisionConfig
        from transformers.models.internvl.modeling_internvl import InternVLVisionModel

        super().__init__(spec)
        config = InternVLVisionConfig(
            hidden_size=spec.hidden_size,
            num_hidden_layers=spec.num_layers,
            num_attention_heads=spec.num_heads,
            intermediate_size=spec.intermediate_size,
            image_size=(spec.image_size, spec.image_size),
            patch_size=(spec.patch_size, spec.patch_size),
            attention_bias=True,
            layer_scale_init_value=1.0,
            # So that transformers puts no norm behind the last layer
            use_mean_pooling=True,
        )
        config._attn_implementation = tiles_name(spec.attention)
        self.model = InternVLVisionModel(config)
        embeddings = self.model.embeddings
        # transformers starts both at zero, which leaves all patches alike at the first steps of a
        # bootstrap model.
        nn.init.normal_(embeddings.position_embeddings, std=0.02)
        nn.init.normal_(embeddings.cls_token, std=0.02)
        # The residual branches end in these two modules; neither has parameters, so no tensor name
        # changes.
        for layer, rate in zip(
            self.blocks, depth_rates(spec.drop_path, spec.num_layers), strict=True
        ):
            layer.get_submodule("attention").projection_dropout = StochasticDepth(rate)
            layer.dropout = StochasticDepth(rate)

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks, in order."""
        return self.model.encoder.layer

    def encode(self, pixels: Tensor) -> Tensor:
        """Return the shuffled features of normalised tiles (N, 3, S, S): (N, num_tokens,
        feature_size)."""
        features = self.model(pixel_values=pixels).last_hidden_state[:, 1:]
        side = self.spec.image_size // self.spec.patch_size
        # (N, patches, C) -> (N, rows, columns, C), the class token already gone
        grid = features.unflatten(1, (side, side)) * self.spec.feature_scale
        return pixel_shuffle(grid, self.spec.shuffle).flatten(1, 2)


def pixel_shuffle(grid: Tensor, side: int) -> Tensor:
    """Fold squares of ``side`` x ``side`` patches into one token each.

    Args:
        grid: (N, H, W, C).

    Returns:
        (N, H / side, W / side, side * side * C), channels ordered (dy, dx, c): InternVL's second
        ordering.
    """
    count, height, width, channels = grid.shape
    split = grid.reshape(count, height // side, side, width // side, side, channels)
    return split.permute(0, 1, 3, 2, 4, 5).reshape(
        count, height // side, width // side, side * side * channels
    )
