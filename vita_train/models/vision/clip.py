"""CLIP's image encoder as in transformers."""

from __future__ import annotations

from torch import Tensor, nn

from vita_train.models.attention.packed import tiles_name
from vita_train.models.vision.merging import let_merge
from vita_train.models.vision.stochastic_depth import depth_rates, drop_outputs
from vita_train.models.vision.tower import VisionTower
from vita_train.recipe.towers.clip import ClipSpec


class ClipTower(VisionTower):
    """CLIP (Radford et al. 2021): the output of block ``feature_layer``, class token dropped, no
    final norm."""

    spec: ClipSpec

    def __init__(self, spec: ClipSpec) -> None:
        from transformers import CLIPVisionConfig
        from transformers.models.clip.modeling_clip import CLIPVisionModel

        super().__init__(spec)
        config = CLIPVisionConfig(
            hidden_size=spec.hidden_size,
            num_hidden_layers=spec.num_blocks,
            num_attention_heads=spec.num_heads,
            intermediate_size=spec.intermediate_size,
            image_size=spec.image_size,
            patch_size=spec.patch_size,
            hidden_act=spec.activation,
        )
        config._attn_implementation = tiles_name(spec.attention)
        self.model = CLIPVisionModel(config)
        self.model.post_layernorm = nn.Identity()  # of the pooled output, which is not used
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
        return self.model(pixel_values=pixels).last_hidden_state[:, 1:]

    def embed(self, pixels: Tensor) -> Tensor:
        """Return what goes into the first block: (N, 1 + num_tokens, D), class token first."""
        # Spelt so in transformers
        return self.model.pre_layrnorm(self.model.embeddings(pixels))
