"""The audio adapter: halves the rate of the speech encoder and lifts it to the language model's width."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vita_train.recipe.model import ModelSpec


class AudioAdapter(nn.Module):
    """Strided convolution padded on the right, LayerNorm, GELU, projection."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        adapter = spec.audio_adapter
        self.kernel, self.stride = adapter.kernel, adapter.stride
        self.conv = nn.Conv1d(spec.audio_encoder.width, adapter.hidden_size, adapter.kernel, adapter.stride)
        self.norm = nn.LayerNorm(adapter.hidden_size, eps=1e-3)
        self.project = nn.Linear(adapter.hidden_size, spec.llm.hidden_size)

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Adapt encoder frames.

        Args:
            frames: (A, T, width); whatever stands beyond ``lengths`` has no effect.
            lengths: (A,) real frames.

        Returns:
            (A, ceil(T / stride), llm width) and the real lengths, ceil(lengths / stride).
        """
        padding = torch.arange(frames.shape[1], device=frames.device) >= lengths[:, None]
        frames = frames.masked_fill(padding[..., None], 0)
        hidden = self.conv(F.pad(frames.transpose(1, 2), (0, self.kernel - 1))).transpose(1, 2)
        hidden = self.project(F.gelu(self.norm(hidden)))
        return hidden, adapter_length(lengths, self.stride)


def adapter_length(frames: Tensor, stride: int) -> Tensor:
    """Return the language positions that encoder frames (A,) become."""
    return torch.div(frames + stride - 1, stride, rounding_mode="floor")
