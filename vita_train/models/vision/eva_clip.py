"""EVA-02-CLIP's image encoder, which transformers does not have.

Sources: Fang et al. 2023 (EVA-02: rotary positions in two dimensions beside learned ones, SwiGLU, a
norm inside attention and perceptron), Sun et al. 2023 (EVA-CLIP), and the tensor names and shapes
of the released L/14.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vita_train.models.attention.packed import attend_tiles
from vita_train.models.vision.stochastic_depth import StochasticDepth, depth_rates
from vita_train.models.vision.tower import VisionTower
from vita_train.recipe.towers.eva_clip import EvaClipSpec

#: Of every norm, as in the public code.
_EPS = 1e-6
_ROPE_THETA = 10000.0


class EvaClipTower(VisionTower):
    """EVA-02-CLIP: the output of block ``feature_layer``, class token dropped, no final norm."""

    spec: EvaClipSpec

    def __init__(self, spec: EvaClipSpec) -> None:
        super().__init__(spec)
        self.model = EvaVisionModel(spec)

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks, in order."""
        return self.model.blocks

    def encode(self, pixels: Tensor) -> Tensor:
        """Return the features of normalised tiles (N, 3, S, S): (N, num_tokens, feature_size)."""
        return self.model(pixels)[:, 1:]


class EvaVisionModel(nn.Module):
    """The encoder up to the block whose output is used; parameters are named as in the release."""

    rope_cos: Tensor
    rope_sin: Tensor

    def __init__(self, spec: EvaClipSpec) -> None:
        super().__init__()
        width = spec.hidden_size
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + spec.num_tokens, width))
        self.patch_embed = EvaPatches(spec)
        self.blocks = nn.ModuleList(
            EvaBlock(spec, rate) for rate in depth_rates(spec.drop_path, spec.num_blocks)
        )
        angles = rotary_angles(spec.grid_size, spec.rope_grid, width // spec.num_heads)
        # Not saved: both follow from the settings
        self.register_buffer("rope_cos", angles.cos(), persistent=False)
        self.register_buffer("rope_sin", angles.sin(), persistent=False)
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.pos_embed, std=0.02)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the hidden states (N, 1 + tokens, width) of normalised tiles (N, 3, S, S), class
        token first."""
        patches = self.patch_embed(pixels)
        hidden = (
            torch.cat((self.cls_token.expand(len(patches), -1, -1), patches), 1) + self.pos_embed
        )
        for block in self.blocks:
            hidden = block(hidden, self.rope_cos, self.rope_sin)
        return hidden


class EvaPatches(nn.Module):
    """Patches to hidden states by one convolution."""

    def __init__(self, spec: EvaClipSpec) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, spec.hidden_size, spec.patch_size, stride=spec.patch_size)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the patches (N, tokens, width) of tiles (N, 3, S, S), row by row."""
        return self.proj(pixels.to(self.proj.weight.dtype)).flatten(2).transpose(1, 2)


class EvaBlock(nn.Module):
    """Attention, then perceptron, each behind a norm and added to what came in."""

    def __init__(self, spec: EvaClipSpec, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(spec.hidden_size, eps=_EPS)
        self.attn = EvaAttention(spec)
        self.norm2 = nn.LayerNorm(spec.hidden_size, eps=_EPS)
        self.mlp = EvaMlp(spec)
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Return the next hidden states (N, L, D); ``cos`` and ``sin`` are (L - 1, head width)."""
        hidden = hidden + self.drop_path(self.attn(self.norm1(hidden), cos, sin))
        return hidden + self.drop_path(self.mlp(self.norm2(hidden)))


class EvaAttention(nn.Module):
    """Attention with rotary positions of the patches, and a norm before the last projection; keys
    have no bias."""

    def __init__(self, spec: EvaClipSpec) -> None:
        super().__init__()
        width = spec.hidden_size
        self.num_heads, self.attention = spec.num_heads, spec.attention
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.inner_attn_ln = nn.LayerNorm(width, eps=_EPS)
        self.proj = nn.Linear(width, width)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Return what attention adds to hidden states (N, L, D); ``cos`` and ``sin`` are (L - 1,
        head width)."""
        query, key, value = (
            part(hidden).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = _turned(query, cos, sin), _turned(key, cos, sin)
        mixed = attend_tiles(self.attention, query, key, value)
        if mixed is None:
            # (N, H, L, C) -> (N, L, H, C), as attend_tiles returns it
            mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2)
        return self.proj(self.inner_attn_ln(mixed.flatten(2)))


class EvaMlp(nn.Module):
    """SwiGLU with a norm before the last projection."""

    def __init__(self, spec: EvaClipSpec) -> None:
        super().__init__()
        self.w1 = nn.Linear(spec.hidden_size, spec.intermediate_size)
        self.w2 = nn.Linear(spec.hidden_size, spec.intermediate_size)
        self.ffn_ln = nn.LayerNorm(spec.intermediate_size, eps=_EPS)
        self.w3 = nn.Linear(spec.intermediate_size, spec.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return what the perceptron adds to hidden states (N, L, D)."""
        return self.w3(self.ffn_ln(F.silu(self.w1(hidden)) * self.w2(hidden)))


def rotary_angles(grid: int, trained_grid: int, head_width: int) -> Tensor:
    """Return the angle of every channel at every patch: (grid * grid, head_width), patches row by
    row.

    The first half of a head's channels turns with the row, the second with the column; neighbours
    turn together. A grid of another size than the trained one is laid over it, so that its
    positions are fractions.
    """
    half = head_width // 2
    rates = _ROPE_THETA ** -(torch.arange(0, half, 2).float() / half)
    places = torch.arange(grid).float() / grid * trained_grid
    along = (places[:, None] * rates).repeat_interleave(2, dim=-1)  # (grid, half)
    rows = along[:, None].expand(grid, grid, half)
    columns = along[None].expand(grid, grid, half)
    return torch.cat((rows, columns), -1).flatten(0, 1)


def _turned(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn neighbouring channels of heads (N, H, L, C) by their patch's angles; the class token
    stays."""
    patches = heads[:, :, 1:]
    # (x0, x1) -> (-x1, x0): each pair a quarter turn further
    across = torch.stack((-patches[..., 1::2], patches[..., ::2]), -1).flatten(-2)
    turned = (patches * cos + across * sin).to(heads.dtype)
    return torch.cat((heads[:, :, :1], turned), 2)
