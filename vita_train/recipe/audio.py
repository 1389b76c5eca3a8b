"""The speech encoder and the adapters behind it: shapes, and how many tokens a clip takes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from vita_train.recipe.base import Dropout, OptionalSize, Size, Strict


class AudioEncoderSpec(Strict):
    """The whale-style speech encoder."""

    num_mel_bins: int = Field(default=80, ge=7, le=1024)
    width: Size = 1024
    conv_channels: OptionalSize = 0
    """Channels of the two subsampling convolutions; 0 (VITA-1.5) takes the width."""
    num_layers: Size = 24
    num_heads: Size = 16
    intermediate_size: Size = 4096
    dropout: Dropout = 0.1
    attention_dropout: Dropout | None = None
    """Dropout of attention weights; none takes ``dropout``."""
    conv_kernel: OptionalSize = 0
    """Kernel of a depthwise convolution after attention in each block; 0 (VITA-1.5) has none."""
    relative_shift: bool = False
    """True: position term by distance (Transformer-XL); false (VITA-1.5): by the key's absolute
    index."""
    dynamic_chunks: bool = True
    """Draw chunk masks while training; never in eval."""
    chunk_size: OptionalSize = 0
    """Encoder frames (25 a second) of a chunk, none of which sees a later chunk; 0: every frame
    sees the whole clip. Holds in eval, and while training without dynamic_chunks. A clip can be
    encoded while it is heard only with it."""
    left_chunks: int = Field(default=-1, ge=-1, le=2**24)
    """Chunks before its own that a frame sees; -1: all. Without chunk_size it has no effect."""
    max_positions: Size = 5000
    """Encoder frames that are encoded together, 200 seconds of 5000; what is longer is cut into
    windows of as many."""

    @model_validator(mode="after")
    def _shapes(self) -> AudioEncoderSpec:
        # Even, because sinusoids come in pairs of sine and cosine
        if self.width % (2 * self.num_heads):
            raise ValueError(
                f"width {self.width} is not an even multiple of num_heads {self.num_heads}"
            )
        if self.conv_kernel and self.conv_kernel % 2 == 0:
            raise ValueError(
                f"conv_kernel {self.conv_kernel} is even; a frame could not stand in its middle"
            )
        return self


class AdapterSpec(Strict):
    """What every adapter states of itself."""

    kind: str
    prompt_tokens: OptionalSize = 0
    """Learned rows put in front of each clip's features: the module ``audio_prompt``. VITA's
    audio_prompt_num is 25."""

    @property
    def frames_per_token(self) -> int:
        """Encoder frames that become one language position."""
        return 1

    @property
    def modules(self) -> tuple[str, ...]:
        """Modules a clip passes through before the language model."""
        return (
            "audio_encoder",
            "audio_adapter",
            *(("audio_prompt",) if self.prompt_tokens else ()),
        )

    def tokens_of(self, frames: int) -> int:
        """Return the tokens of a clip of so many filterbank frames; 0 where it is too short to be
        heard."""
        encoded = encoder_frames(frames)
        # Prompt rows too only where something is heard: a clip without frames has no place in a
        # text
        return self.prompt_tokens + -(-encoded // self.frames_per_token) if encoded else 0


class SubsamplingAdapterSpec(AdapterSpec):
    """VITA-1.5's adapter: right-padded strided convolution, normalisation, activation,
    projection."""

    kind: Literal["subsampling"] = "subsampling"
    kernel: Size = 5
    stride: Size = 2
    hidden_size: Size = 2048
    norm: Literal["layer", "batch"] = "layer"
    activation: Literal["gelu", "relu"] = "gelu"

    @property
    def frames_per_token(self) -> int:
        """Encoder frames that become one language position: the stride."""
        return self.stride


class CnnAdapterSpec(AdapterSpec):
    """Two causal convolutions to two and four times the encoder's width, each with BatchNorm and
    ReLU, then a projection; as many positions as encoder frames."""

    model_config = ConfigDict(json_schema_extra={"required": ["kind"]})

    kind: Literal["cnn"] = "cnn"
    kernel: Size = 5


class LinearAdapterSpec(AdapterSpec):
    """One linear layer; as many positions as encoder frames."""

    model_config = ConfigDict(json_schema_extra={"required": ["kind"]})

    kind: Literal["linear"] = "linear"


def _kind(value: Any) -> Any:
    """Return the kind that an adapter's settings name; VITA-1.5's own where they name none."""
    return (
        value.get("kind", "subsampling")
        if isinstance(value, dict)
        else getattr(value, "kind", None)
    )


AudioAdapterSpec = Annotated[
    Annotated[SubsamplingAdapterSpec, Tag("subsampling")]
    | Annotated[CnnAdapterSpec, Tag("cnn")]
    | Annotated[LinearAdapterSpec, Tag("linear")],
    Discriminator(_kind),
]


def frames_of_seconds(seconds: float) -> int:
    """Return the filterbank frames of a clip: 25 ms windows, 10 ms apart, none padded."""
    return max(0, int(seconds * 100) - 2)


def encoder_frames(frames: int) -> int:
    """Return the encoder's length for a number of filterbank frames (two unpadded convolutions,
    kernel 3, stride 2)."""
    return max(0, ((frames - 1) // 2 - 1) // 2)
