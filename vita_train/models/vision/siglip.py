"""SigLIP's image encoder as in transformers, at one scale or several."""

from __future__ import annotations

from torch import Tensor, nn

from vita_train.models.attention.packed import tiles_name
from vita_train.models.vision.merging import let_merge
from vita_train.models.vision.multiscale import joined_scales, squares
from vita_train.models.vision.stochastic_depth import depth_rates, drop_outputs
from vita_train.models.vision.tower import VisionTower
from vita_train.recipe.towers.siglip import SiglipSpec


class SiglipTower(VisionTower):
    """SigLIP (Zhai et al. 2023): the output of block ``feature_layer``, no final norm; there is no
    class token.

    With ``scales`` a tile is seen at several sizes (S2, Shi et al. 2024).
    """

    spec: SiglipSpec

    def __init__(self, spec: SiglipSpec) -> None:
        from transformers import SiglipVisionConfig
        from transformers.models.siglip.modeling_siglip import SiglipVisionModel

        super().__init__(spec)
        config = SiglipVisionConfig(
            hidden_size=spec.hidden_size,
            num_hidden_layers=spec.num_blocks,
            num_attention_heads=spec.num_heads,
            intermediate_size=spec.intermediate_size,
            image_size=spec.image_size,
            patch_size=spec.patch_size,
            # Pooling by attention: no pooled output is used
            vision_use_head=False,
        )
        config._attn_implementation = tiles_name(spec.attention)
        self.model = SiglipVisionModel(config)
        self.model.post_layernorm = (
            nn.Identity()
        )  # follows the last block, which is not where features are taken
        for block, rate in zip(
            self.blocks, depth_rates(spec.drop_path, spec.num_blocks), strict=True
        ):
            drop_outputs(
                (block.get_submodule("self_attn.out_proj"), block.get_submodule("mlp")), rate
            )
        if spec.merge is not None:
            let_merge(self.blocks)

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks, in order."""
        return self.model.encoder.layers

    def encode(self, pixels: Tensor) -> Tensor:
        """Return the features of normalised tiles (N, 3, S, S): (N, num_tokens, feature_size)."""
        if not self.spec.scales:
            return self.model(pixel_values=pixels).last_hidden_state
        views = squares(pixels, self.spec.scales)
        features = self.model(pixel_values=views).last_hidden_state
        return joined_scales(features, self.spec.scales)

    def embed(self, pixels: Tensor) -> Tensor:
        """Return what goes into the first block: (N, num_tokens, D)."""
        return self.model.embeddings(pixels)
