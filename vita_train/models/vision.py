"""The vision tower: InternViT as in transformers, then pixel shuffle."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vita_train.recipe.model import VisionSpec


class StochasticDepth(nn.Module):
    """Drops a residual branch for whole samples while training (Huang et al. 2016); identity in eval mode."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return branch
        shape = (branch.shape[0],) + (1,) * (branch.ndim - 1)
        keep = torch.rand(shape, device=branch.device) >= self.rate
        return branch * keep / (1 - self.rate)


class VisionTower(nn.Module):
    """Tiles to features for the projector.

    The last layer's features, class token dropped, times ``feature_scale`` (0.5 in VITA-1.5: part of the function
    its weights were trained with), folded ``shuffle`` x ``shuffle`` patches to a token.
    """

    def __init__(self, spec: VisionSpec) -> None:
        from transformers.models.internvl.configuration_internvl import InternVLVisionConfig
        from transformers.models.internvl.modeling_internvl import InternVLVisionModel

        super().__init__()
        self.spec = spec
        config = InternVLVisionConfig(
            hidden_size=spec.hidden_size,
            num_hidden_layers=spec.num_layers,
            num_attention_heads=spec.num_heads,
            intermediate_size=spec.intermediate_size,
            image_size=(spec.image_size, spec.image_size),
            patch_size=(spec.patch_size, spec.patch_size),
            attention_bias=True,
            layer_scale_init_value=1.0,
            use_mean_pooling=True,
        )
        config._attn_implementation = "sdpa"
        self.model = InternVLVisionModel(config)
        embeddings = self.model.embeddings
        # transformers starts both at zero, which leaves all patches alike at the first steps of a stand-in.
        nn.init.normal_(embeddings.position_embeddings, std=0.02)
        nn.init.normal_(embeddings.cls_token, std=0.02)
        # The residual branches end in these two modules; neither has parameters, so no tensor name changes.
        for index, layer in enumerate(self.blocks):
            rate = spec.drop_path * index / max(1, spec.num_layers - 1)
            layer.get_submodule("attention").projection_dropout = StochasticDepth(rate)
            layer.dropout = StochasticDepth(rate)

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks, in order."""
        return self.model.encoder.layer

    def forward(self, tiles: Tensor) -> Tensor:
        """Encode tiles.

        Args:
            tiles: (N, 3, S, S); uint8 pixels are normalised here, floats are taken as normalised.

        Returns:
            (N, tokens_per_tile, feature_size).
        """
        if tiles.dtype == torch.uint8:
            tiles = normalise(tiles, self.spec)
        weight = self.model.embeddings.patch_embeddings.projection.weight
        features = self.model(pixel_values=tiles.to(weight.dtype)).last_hidden_state[:, 1:]
        side = self.spec.image_size // self.spec.patch_size
        grid = features.unflatten(1, (side, side)) * self.spec.feature_scale
        return pixel_shuffle(grid, self.spec.shuffle).flatten(1, 2)


def normalise(tiles: Tensor, spec: VisionSpec) -> Tensor:
    """Return uint8 tiles (N, 3, S, S) as float32 with the tower's mean and deviation taken out."""
    mean = torch.tensor(spec.mean, device=tiles.device).view(3, 1, 1)
    std = torch.tensor(spec.std, device=tiles.device).view(3, 1, 1)
    return (tiles.float() / 255 - mean) / std


def pixel_shuffle(grid: Tensor, side: int) -> Tensor:
    """Fold squares of ``side`` x ``side`` patches into one token each.

    Args:
        grid: (N, H, W, C).

    Returns:
        (N, H / side, W / side, side * side * C), channels ordered (dy, dx, c): InternVL's second ordering.
    """
    count, height, width, channels = grid.shape
    split = grid.reshape(count, height // side, side, width // side, side, channels)
    return split.permute(0, 1, 3, 2, 4, 5).reshape(count, height // side, width // side, side * side * channels)


def load_vision(spec: VisionSpec, source: str) -> VisionTower:
    """Return the tower with the weights of a directory or hub name, in transformers' or OpenGVLab's tensor names.

    Raises:
        CheckpointError: nothing readable is there, or its tensors are not those of the specification.
    """
    from vita_train.models.checkpoint.internvit import read_internvit

    tower = VisionTower(spec)
    tower.model.load_state_dict(read_internvit(source, tower.model.state_dict()))
    return tower
