"""Projectors: features of the vision tower to embeddings of the language model."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from vita_train.plugins import named
from vita_train.recipe.model import ModelSpec


def build_projector(spec: ModelSpec) -> nn.Module:
    """Return the projector of ``spec.projector.kind``.

    Each takes (N, num_tokens, feature_size), tokens a square row by row, and gives
    (N, spec.tokens_per_tile, llm.hidden_size). Kinds and structures are those that VITA-1.5's code
    has, and VILA-1.5's (`vita_train.recipe.projectors`).
    """
    projector: nn.Module = named(spec.projector.declared.implementation)(
        spec.vision.feature_size, spec.llm.hidden_size, spec.projector.kind
    )
    return projector


def build_identity(features: int, width: int, kind: str) -> nn.Module:
    """Return what hands tokens on as they are."""
    return nn.Identity()


def build_linear(features: int, width: int, kind: str) -> nn.Module:
    """Return one linear layer."""
    return nn.Linear(features, width)


def build_perceptron(features: int, width: int, kind: str) -> nn.Module:
    """Return as many layers as the kind says: mlp2x_gelu has two."""
    return perceptron(features, width, int(kind.removeprefix("mlp").removesuffix("x_gelu")))


def build_merge(features: int, width: int, kind: str) -> nn.Module:
    """Return `Merge`, interleaved for vanilla."""
    return Merge(features, width, interleave=kind == "vanilla")


def build_spp(features: int, width: int, kind: str) -> nn.Module:
    """Return `Spp` of the version that the kind ends in."""
    return Spp(features, width, int(kind[-1]))


def build_downsample(features: int, width: int, kind: str) -> nn.Module:
    """Return `Downsample`."""
    return Downsample(features, width)


def build_ldp(features: int, width: int, kind: str) -> nn.Module:
    """Return `Ldp`."""
    return Ldp(features, width)


def perceptron(features: int, width: int, depth: int) -> nn.Sequential:
    """Return ``depth`` linear layers with GELU between: parameters ``0.*``, ``2.*``, ... (Liu et
    al. 2023)."""
    layers: list[nn.Module] = [nn.Linear(features, width)]
    for _ in range(depth - 1):
        layers += [nn.GELU(), nn.Linear(width, width)]
    return nn.Sequential(*layers)


class Merge(nn.Module):
    """Four tokens in a row to one by a linear layer: minigpt (Chen et al. 2023, MiniGPT-v2) and
    vanilla.

    The channels of the four stand one token after the other, or interleaved: (c, token).
    """

    def __init__(self, features: int, width: int, *, interleave: bool) -> None:
        super().__init__()
        self.interleave = interleave
        self.linear = nn.Linear(4 * features, width)

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, tokens / 4, width) of features (N, tokens, C)."""
        # (N, tokens, C) -> (N, tokens / 4, 4, C)
        fours = features.unflatten(1, (-1, 4))
        return self.linear((fours.transpose(2, 3) if self.interleave else fours).flatten(2))


class Downsample(nn.Module):
    """Squares of 2 x 2 tokens to one token each: joined, normed, and a perceptron of two layers
    (Lin et al. 2024, VILA, as its release 1.5 has it). A grid with an odd side is filled up with
    zeros below and on the right.

    A square's channels are those of its upper left, upper right, lower left and lower right token.
    The new tokens stand column by column, as the released language models were trained to read
    them.
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * features)
        self.mlp = perceptron(4 * features, width, 2)

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, ceil(side / 2) ** 2, width) of features (N, side * side, C)."""
        side = round(features.shape[1] ** 0.5)
        odd = side % 2
        rows = F.pad(features.unflatten(1, (side, side)), (0, 0, 0, odd, 0, odd))
        squares = rows.unflatten(1, (-1, 2)).unflatten(3, (-1, 2))  # (N, y, 2, x, 2, C)
        return self.mlp(self.norm(squares.permute(0, 3, 1, 2, 4, 5).flatten(3).flatten(1, 2)))


class Spp(nn.Module):
    """Linear layers around averages of 2 x 2 tokens, without activations; an odd last row and
    column are left out.

    v1: linear_1, average, linear_2. v2: linear_1, linear_2, average. v3: linear_0, average,
        linear_1, linear_2.
    """

    def __init__(self, features: int, width: int, version: int) -> None:
        super().__init__()
        self.version = version
        self.linear_0 = nn.Linear(features, features) if version == 3 else nn.Identity()
        self.linear_1 = nn.Linear(features, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, (side // 2) ** 2, width) of features (N, side * side, C)."""
        hidden = self.linear_0(features)
        hidden = self.linear_1(pooled(hidden) if self.version == 3 else hidden)
        hidden = self.linear_2(pooled(hidden) if self.version == 1 else hidden)
        return pooled(hidden) if self.version == 2 else hidden


class Ldp(nn.Module):
    """Lightweight downsample projector (Chu et al. 2023, MobileVLM): perceptron, then two depthwise
    blocks.

    The second halves the grid.
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.mlp = perceptron(features, width, 2)
        self.blocks = nn.Sequential(
            InvertedResidual(width, stride=1), InvertedResidual(width, stride=2)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, ceil(side / 2) ** 2, width) of features (N, side * side, C)."""
        return tokens(self.blocks(grid(self.mlp(features))))


class InvertedResidual(nn.Module):
    """MobileNetV3's block (Howard et al. 2019, section 5) without expansion, with layer norms over
    channels.

    Depthwise 3 x 3 convolution, norm, hard swish; squeeze and excitation; pointwise convolution,
    norm. What came in is added where the grid keeps its size.
    """

    def __init__(self, channels: int, *, stride: int) -> None:
        super().__init__()
        self.stride = stride
        # No bias: the norm behind it has one
        self.depthwise = nn.Conv2d(
            channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False
        )
        self.norm1 = ChannelNorm(channels)
        self.excite = SqueezeExcitation(channels)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm2 = ChannelNorm(channels)

    def forward(self, maps: Tensor) -> Tensor:
        """Return (N, C, ceil(H / stride), ceil(W / stride)) of maps (N, C, H, W)."""
        inner = self.excite(F.hardswish(self.norm1(self.depthwise(maps))))
        out = self.norm2(self.pointwise(inner))
        return maps + out if self.stride == 1 else out


class SqueezeExcitation(nn.Module):
    """Scales channels by what their averages over the grid say (Hu et al. 2018), through a hard
    sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = rounded_to_eight(channels // 4)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (N, C, H, W) with scaled channels."""
        # (N, C, H, W) -> (N, C, 1, 1), on which 1 x 1 convolutions are linear layers
        averages = maps.mean((2, 3), keepdim=True)
        return maps * F.hardsigmoid(self.fc2(F.relu(self.fc1(averages))))


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of maps (N, C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the maps, normed at every place of the grid."""
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


def rounded_to_eight(channels: int) -> int:
    """Return the multiple of eight that MobileNet takes for a number of channels: near it, never
    below nine tenths."""
    near = max(8, (channels + 4) // 8 * 8)
    return near if near >= 0.9 * channels else near + 8


def grid(features: Tensor) -> Tensor:
    """Return tokens (N, side * side, C) as maps (N, C, side, side)."""
    side = round(features.shape[1] ** 0.5)
    return features.transpose(1, 2).unflatten(2, (side, side))


def tokens(maps: Tensor) -> Tensor:
    """Return maps (N, C, H, W) as tokens (N, H * W, C)."""
    return maps.flatten(2).transpose(1, 2)


def pooled(features: Tensor) -> Tensor:
    """Return the averages of squares of 2 x 2 tokens: (N, side * side, C) to (N, (side // 2) ** 2,
    C)."""
    return tokens(F.avg_pool2d(grid(features), 2))
