"""Audio adapters: encoder frames to the language model's width; and the learned rows in front of
them."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vita_train.recipe.audio import CnnAdapterSpec, SubsamplingAdapterSpec
from vita_train.recipe.model import ModelSpec

#: Added to variances by the adapters' norms (VITA-1.5).
_EPS = 1e-3
#: Share of a batch in the running statistics. VITA's modules say 0.99, which torch takes for the
#: share of the newest batch; as the share of the old, which was meant, it is this.
_MOMENTUM = 0.01


class AudioAdapter(nn.Module):
    """What all adapters have in common: padding is hidden from them, and lengths shrink by a fixed
    stride."""

    stride = 1

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Adapt encoder frames.

        Args:
            frames: (A, T, width); whatever stands beyond ``lengths`` has no effect.
            lengths: (A,) real frames.

        Returns:
            (A, ceil(T / stride), llm width) and the real lengths, ceil(lengths / stride).
        """
        counts = adapter_length(lengths, self.stride)
        frames = frames.masked_fill(~_real(frames.shape[1], lengths)[..., None], 0)
        return self.adapt(frames, counts), counts

    def adapt(self, frames: Tensor, counts: Tensor) -> Tensor:
        """Return (A, ceil(T / stride), llm width) for frames (A, T, width) that are zero in the
        padding.

        ``counts`` (A,) says how many of the results are real.
        """
        raise NotImplementedError


class SubsamplingAdapter(AudioAdapter):
    """Strided convolution padded on the right, normalisation, activation, projection:
    VITA-1.5's."""

    def __init__(self, spec: SubsamplingAdapterSpec, width: int, out: int) -> None:
        super().__init__()
        self.kernel, self.stride = spec.kernel, spec.stride
        self.conv = nn.Conv1d(width, spec.hidden_size, spec.kernel, spec.stride)
        self.norm = (
            FrameBatchNorm(spec.hidden_size)
            if spec.norm == "batch"
            else nn.LayerNorm(spec.hidden_size, eps=_EPS)
        )
        self.activation: Callable[[Tensor], Tensor] = (
            F.gelu if spec.activation == "gelu" else F.relu
        )
        self.project = nn.Linear(spec.hidden_size, out)

    def adapt(self, frames: Tensor, counts: Tensor) -> Tensor:
        """See AudioAdapter."""
        # (A, T, C) -> (A, C, T): conv1d wants channels second. kernel - 1 more frames give ceil(T /
        # stride)
        hidden = self.conv(F.pad(frames.transpose(1, 2), (0, self.kernel - 1))).transpose(1, 2)
        normed = (
            self.norm(hidden, counts)
            if isinstance(self.norm, FrameBatchNorm)
            else self.norm(hidden)
        )
        return self.project(self.activation(normed))


class CnnAdapter(AudioAdapter):
    """Two causal convolutions, each with BatchNorm and ReLU, and a projection."""

    def __init__(self, spec: CnnAdapterSpec, width: int, out: int) -> None:
        super().__init__()
        self.kernel = spec.kernel
        self.conv1 = nn.Conv1d(width, 2 * width, spec.kernel)
        self.norm1 = FrameBatchNorm(2 * width)
        self.conv2 = nn.Conv1d(2 * width, 4 * width, spec.kernel)
        self.norm2 = FrameBatchNorm(4 * width)
        self.project = nn.Linear(4 * width, out)

    def adapt(self, frames: Tensor, counts: Tensor) -> Tensor:
        """See AudioAdapter. Convolutions look back only, so real frames never see what padding
        became."""
        for conv, norm in ((self.conv1, self.norm1), (self.conv2, self.norm2)):
            # kernel - 1 frames in front and none behind: T stays T
            hidden = conv(F.pad(frames.transpose(1, 2), (self.kernel - 1, 0))).transpose(1, 2)
            frames = F.relu(norm(hidden, counts))
        return self.project(frames)


class LinearAdapter(AudioAdapter):
    """One linear layer."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, out)

    def adapt(self, frames: Tensor, counts: Tensor) -> Tensor:
        """See AudioAdapter."""
        return self.project(frames)


class FrameBatchNorm(nn.BatchNorm1d):
    """Batch normalisation (Ioffe and Szegedy 2015) over the real frames of all clips of a
    micro-batch.

    A micro-batch of one frame has no variance: it takes the running statistics and leaves them
    alone. So does the placeholder clip that passes through where a batch has no audio. With several
    ranks the statistics are rank 0's.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=_EPS, momentum=_MOMENTUM)

    def forward(self, frames: Tensor, counts: Tensor) -> Tensor:  # type: ignore[override]
        """Normalise frames (A, T, width), of which ``counts`` (A,) are real; computed in
        float32."""
        real = _real(frames.shape[1], counts)
        # (A, T, width) -> (real frames, width): batch_norm then counts no padding
        chosen = frames[real].float()
        learning = self.training and len(chosen) > 1
        normed = F.batch_norm(
            chosen,
            self.running_mean,
            self.running_var,
            self.weight.float(),
            self.bias.float(),
            learning,
            cast(float, self.momentum),
            self.eps,
        )
        # Filled in row order, the one in which frames[real] took them; padding stays zero
        return torch.zeros_like(frames).masked_scatter(real[..., None], normed.to(frames.dtype))


class AudioPrompt(nn.Module):
    """Learned rows in front of each clip's features (VITA's ``prompt_embeddings``)."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        # 0.02 is how language models draw their own embeddings, beside which these stand
        self.weight = nn.Parameter(torch.empty(rows, width).normal_(std=0.02))

    def forward(self, hidden: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Return (A, rows + T, width) and the real lengths, rows + counts, for hidden (A, T,
        width), counts (A,)."""
        rows = self.weight.to(hidden.dtype).expand(len(hidden), -1, -1)
        return torch.cat((rows, hidden), dim=1), counts + self.weight.shape[0]


def build_audio_adapter(spec: ModelSpec) -> AudioAdapter:
    """Return the adapter that a model's settings name, with fresh weights."""
    adapter, width, out = spec.audio_adapter, spec.audio_encoder.width, spec.llm.hidden_size
    if isinstance(adapter, SubsamplingAdapterSpec):
        return SubsamplingAdapter(adapter, width, out)
    if isinstance(adapter, CnnAdapterSpec):
        return CnnAdapter(adapter, width, out)
    return LinearAdapter(width, out)


def adapter_length(frames: Tensor, stride: int) -> Tensor:
    """Return the positions that encoder frames (A,) become, without the audio prompt: ceil(frames /
    stride)."""
    return torch.div(frames + stride - 1, stride, rounding_mode="floor")


def _real(time: int, lengths: Tensor) -> Tensor:
    """Return (A, time) bool, True where a clip has frames."""
    return torch.arange(time, device=lengths.device) < lengths[:, None]
