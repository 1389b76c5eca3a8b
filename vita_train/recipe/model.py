"""Shapes and sources of the model's parts. Defaults are those of VITA-1.5 on Qwen2.5-7B."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from vita_train.recipe.base import Strict
from vita_train.recipe.ladder import MODULES


class LlmSpec(Strict):
    """The language model (transformers' Qwen2)."""

    source: str | None = None
    """Directory or hub name with pretrained weights; none trains a stand-in in stage 0.llm."""
    family: Literal["qwen2p5_instruct"] = "qwen2p5_instruct"
    """Chooses the conversation template and the architecture."""
    vocab_size: int = 152064
    """Rows of the embedding table. Never shrunk to the tokenizer's length."""
    hidden_size: int = 3584
    num_layers: int = 28
    num_heads: int = 28
    num_kv_heads: int = 4
    intermediate_size: int = 18944
    max_positions: int = 32768
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6
    tie_embeddings: bool = False
    attention: Literal["sdpa", "varlen"] = "sdpa"
    """How packed documents are kept apart. sdpa: by a mask, anywhere. varlen: by torch's variable-length kernel on
    GPUs in half precision, elsewhere as sdpa."""


class VisionSpec(Strict):
    """The vision tower (InternViT through transformers' InternVLVisionModel) with its pixel shuffle."""

    kind: Literal["internvit"] = "internvit"
    source: str | None = None
    """Directory or hub name with pretrained weights; none trains a stand-in in stage 0.vision."""
    image_size: int = 448
    """Side of a tile, pixels."""
    patch_size: int = 14
    hidden_size: int = 1024
    num_layers: int = 24
    num_heads: int = 16
    intermediate_size: int = 4096
    drop_path: float = 0.1
    feature_scale: float = 0.5
    """Factor on the features before the pixel shuffle; part of the released weights' function."""
    shuffle: int = 2
    """Side of the square of patches folded into one token."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    @property
    def tokens_per_tile(self) -> int:
        """Language positions one tile takes: 256 for 448 px, patch 14, shuffle 2."""
        return (self.image_size // self.patch_size // self.shuffle) ** 2

    @property
    def feature_size(self) -> int:
        """Width of one shuffled token: 4096 for the 300M tower."""
        return self.hidden_size * self.shuffle**2

    @model_validator(mode="after")
    def _grid(self) -> VisionSpec:
        if self.image_size % (self.patch_size * self.shuffle):
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size x shuffle "
                             f"({self.patch_size} x {self.shuffle})")
        return self


class ProjectorSpec(Strict):
    """Vision features to language embeddings."""

    kind: Literal["mlp2x_gelu"] = "mlp2x_gelu"


class AudioEncoderSpec(Strict):
    """The whale-style speech encoder."""

    num_mel_bins: int = 80
    width: int = 1024
    conv_channels: int = 0
    """Channels of the two subsampling convolutions; 0 (VITA-1.5) takes the width."""
    num_layers: int = 24
    num_heads: int = 16
    intermediate_size: int = 4096
    dropout: float = 0.1
    conv_kernel: int = 0
    """Kernel of a depthwise convolution after attention in each block; 0 (VITA-1.5) has none."""
    relative_shift: bool = False
    """True: position term by distance (Transformer-XL); false (VITA-1.5): by the key's absolute index."""
    dynamic_chunks: bool = True
    """Draw chunk masks while training; never in eval."""
    max_positions: int = 5000
    """Encoder frames (25 a second) the position table holds; longer clips are rejected before training."""

    @model_validator(mode="after")
    def _shapes(self) -> AudioEncoderSpec:
        if self.width % (2 * self.num_heads):
            raise ValueError(f"width {self.width} is not an even multiple of num_heads {self.num_heads}")
        if self.conv_kernel and self.conv_kernel % 2 == 0:
            raise ValueError(f"conv_kernel {self.conv_kernel} is even; a frame could not stand in its middle")
        return self


class CtcHeadSpec(Strict):
    """Units of the recogniser of stage 2.1a."""

    units: Literal["char", "word"] = "char"
    """What is recognised. The inventory comes from the training transcripts; blank is unit 0."""


class AudioAdapterSpec(Strict):
    """The subsampling adapter: right-padded strided convolution, LayerNorm, GELU, projection."""

    kind: Literal["subsampling"] = "subsampling"
    kernel: int = 5
    stride: int = 2
    hidden_size: int = 2048


class CodecSpec(Strict):
    """The speech codec of stage 3.1."""

    kind: Literal["waveform", "spectral"] = "waveform"
    """waveform: strided convolutions, HiFi-GAN-like generator (TiCodec). spectral: log-mel in, inverse STFT out."""
    sample_rate: int = 24000
    hop_length: int = 600
    """Samples per code; 24000/600 = 40 codes a second."""
    upsample_rates: tuple[int, ...] = (8, 5, 5, 3)
    """waveform: product must be hop_length."""
    upsample_kernels: tuple[int, ...] = (16, 11, 11, 5)
    channels: int = 512
    """Widest hidden size of encoder and decoder."""
    num_blocks: int = 8
    """spectral: ConvNeXt blocks in encoder and in decoder."""
    codebook_size: int = 1024
    code_dim: int = 512
    quantizer: Literal["learned", "ema"] = "learned"
    """learned: codebook trained by its loss (TiCodec). ema: moving average with restart of dead codes."""
    num_global_tokens: int = 8
    global_dim: int = 128
    """Width of the global (speaker) vector; must be divisible by num_global_tokens."""
    segment: int = 24000
    """Samples per training crop."""


class SpeechDecoderSpec(Strict):
    """NAR then AR decoder from text embeddings to codec tokens."""

    width: int = 896
    """Must divide the language model's hidden size: each text token becomes hidden_size / width positions."""
    nar_layers: int = 4
    ar_layers: int = 4
    num_heads: int = 14
    intermediate_size: int = 4864
    dropout: float = 0.0
    alignment: Literal["none", "durations"] = "none"
    """none: as VITA-1.5. durations: a head guesses how long each text token lasts, and text is placed beside the
    speech it stands for; little data then suffices."""
    max_positions: int = 2048
    max_codes: int = 1000


class ModelSpec(Strict):
    """Everything the assembled model is made of."""

    llm: LlmSpec = LlmSpec()
    vision: VisionSpec = VisionSpec()
    projector: ProjectorSpec = ProjectorSpec()
    audio_encoder: AudioEncoderSpec = AudioEncoderSpec()
    ctc_head: CtcHeadSpec = CtcHeadSpec()
    audio_adapter: AudioAdapterSpec = AudioAdapterSpec()
    codec: CodecSpec = CodecSpec()
    speech_decoder: SpeechDecoderSpec = SpeechDecoderSpec()
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Compute and storage type of the weights; optimizer state is always float32."""
    sources: dict[str, str] = {}
    """Module to the directory or s3:// URI of an import (``vita-train import``) or export that it starts from."""

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out ``sources`` where nothing is imported: digests made before there were any stay."""
        values: dict[str, Any] = write(self)
        return {name: value for name, value in values.items() if name != "sources" or value}

    @model_validator(mode="after")
    def _known_sources(self) -> ModelSpec:
        if unknown := sorted(set(self.sources) - set(MODULES)):
            raise ValueError(f"sources names {', '.join(unknown)}; modules are {', '.join(MODULES)}")
        twice = [name for name, source in (("llm", self.llm.source), ("vision", self.vision.source))
                 if source and name in self.sources]
        if twice:
            raise ValueError(f"{twice[0]}.source and sources.{twice[0]} both say where {twice[0]} starts from")
        return self

    @model_validator(mode="after")
    def _fits(self) -> ModelSpec:
        if self.llm.hidden_size % self.speech_decoder.width:
            raise ValueError(f"llm.hidden_size {self.llm.hidden_size} is not a multiple of "
                             f"speech_decoder.width {self.speech_decoder.width}")
        return self


class TokenizerSpec(Strict):
    """Where the tokenizer comes from."""

    source: str | None = None
    """Directory or hub name; none trains a byte-level BPE on the training text."""
    vocab_size: int = Field(default=1024, ge=300)
    """Entries of a trained tokenizer, special tokens included."""
