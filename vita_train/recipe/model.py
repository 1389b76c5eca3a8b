"""Shapes and sources of the model's parts. Defaults are those of VITA-1.5 on Qwen2.5-7B."""

from __future__ import annotations

from math import prod
from typing import Literal

from pydantic import Field, field_validator, model_validator

from vita_train.recipe.audio import AudioAdapterSpec, AudioEncoderSpec, SubsamplingAdapterSpec
from vita_train.recipe.base import (
    Attention,
    Dropout,
    Epsilon,
    OptionalSize,
    SampleRate,
    Size,
    Strict,
)
from vita_train.recipe.family import FAMILIES
from vita_train.recipe.towers.internvit import InternVitSpec
from vita_train.recipe.vision import ProjectorSpec, VisionSpec, tile_tokens
from vita_train.recipe.visual import TileTokens


class MoeSpec(Strict):
    """Experts in place of the feed-forward layer of each block. Names are those of transformers'
    Mixtral."""

    num_local_experts: int = Field(default=8, ge=2, le=2**16)
    num_experts_per_tok: Size = 2
    """Experts that read each position."""
    router_aux_loss_coef: float = Field(default=0.02, ge=0, le=1000)
    """Weight of the load-balancing loss while the language model trains."""

    @model_validator(mode="after")
    def _enough(self) -> MoeSpec:
        if self.num_experts_per_tok > self.num_local_experts:
            raise ValueError(
                f"num_experts_per_tok {self.num_experts_per_tok} is above num_local_experts "
                f"{self.num_local_experts}"
            )
        return self


class LlmSpec(Strict):
    """The language model. A recipe that names another family than the default one gets that
    family's published sizes, template and state mode wherever it gives none."""

    source: str | None = None
    """Directory or hub name with pretrained weights; none trains a bootstrap model in stage
    0.llm."""
    prefix: str = ""
    """What every tensor's name in the source begins with, where it is a part of a larger model:
    ``language_model.``."""
    ignore: tuple[str, ...] = ()
    """Patterns of tensors of the source that may go unused. All others must have a place in the
    model."""
    family: str = Field(default="qwen2p5_instruct", json_schema_extra={"enum": [*FAMILIES]})
    """Chooses the architecture: Qwen2 (both qwen families), Mistral (nemo), Mixtral or Llama; or
    one of a plugin."""
    vocab_size: Size = 152064
    """Rows of the embedding table. Never shrunk to the tokenizer's length."""
    hidden_size: Size = 3584
    num_layers: Size = 28
    num_heads: Size = 28
    num_kv_heads: Size = 4
    intermediate_size: Size = 18944
    max_positions: Size = 32768
    rope_theta: float = Field(default=1e6, ge=1, le=1e12)
    rope_factor: float = Field(default=1.0, ge=1, le=1e4)
    """Positions are divided by it before they turn queries and keys (transformers' linear scaling;
    4 in Vicuna's 16k models, whose base reads 4,096)."""
    rms_norm_eps: Epsilon = 1e-6
    tie_embeddings: bool = False
    attention: Attention = "auto"
    """How packed documents are kept apart. auto: nothing is computed across documents (on GPUs in
    half precision flash-attn where it is installed and the device has it, else torch's
    variable-length kernel; on processors one document after the other). flash, varlen: these
    kernels, or an error where they do not run. flex: torch's FlexAttention. sdpa: by a mask over
    the whole row."""
    init: Literal["normal", "mimetic"] = "normal"
    """How a model without a source begins. normal: as the family's own initialisation. mimetic:
    with keys equal to queries, so that attention begins by finding equal tokens again, and heads of
    the first layer that look one or two tokens back (where the family has biases); small models
    learn from little text sooner."""
    head_dim: Size | None = None
    """Width of an attention head; none is hidden_size / num_heads."""
    moe: MoeSpec | None = None
    """Experts; of families that have some, as mixtral-8x7b, and of no other."""

    @field_validator("family")
    @classmethod
    def _known(cls, family: str) -> str:
        if family not in FAMILIES:
            raise ValueError(
                f"there is no language family {family!r}; there are {', '.join(FAMILIES)}"
            )
        return family

    @model_validator(mode="after")
    def _experts(self) -> LlmSpec:
        if (self.moe is not None) != FAMILIES[self.family].experts:
            raise ValueError(
                f"family {self.family} needs moe"
                if self.moe is None
                else f"moe is given, but family {self.family} has no experts"
            )
        return self

    @model_validator(mode="after")
    def _heads(self) -> LlmSpec:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        if self.head_dim is None and self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}; "
                f"give "
                "head_dim where heads have a width of their own"
            )
        if (width := self.head_dim or self.hidden_size // self.num_heads) % 2:
            raise ValueError(
                f"an attention head would be {width} wide; rotary positions turn pairs of channels"
            )
        return self


class CtcHeadSpec(Strict):
    """Vocabulary of the recogniser of stage 2.1a."""

    vocab: Literal["char", "word"] = "char"
    """What is recognised. The inventory comes from the training transcripts; blank is unit 0."""


#: Samples of the longest window of the published discriminators, which are not padded.
LONGEST_WINDOW = 2048

#: How the waveform codec, its discriminators and its mel loss are computed.
CodecVariant = Literal["revised", "ticodec"]


class CodecSpec(Strict):
    """The speech codec of stage 3.1."""

    kind: Literal["waveform", "spectral"] = "waveform"
    """waveform: strided convolutions, HiFi-GAN-like generator (TiCodec). spectral: log-mel in,
    inverse STFT out."""
    variant: CodecVariant = "revised"
    """How the waveform codec, its discriminators and its mel loss compute where ours and the
    published ones part. ticodec: as published, so that released weights compute what they did.
    revised: the voice enters a generator stage before its residual blocks, encoder stages run
    their kernels from small to large, three centred STFT discriminators, fewer mel bands in short
    transforms. Weights of one do not fit the other."""
    sample_rate: SampleRate = 24000
    hop_length: Size = 600
    """Samples per code; 24000/600 = 40 codes a second."""
    upsample_rates: tuple[Size, ...] = (8, 5, 5, 3)
    """waveform: product must be hop_length."""
    upsample_kernels: tuple[Size, ...] = (16, 11, 11, 5)
    channels: Size = 512
    """Widest hidden size of encoder and decoder."""
    num_blocks: Size = 8
    """spectral: ConvNeXt blocks in encoder and in decoder."""
    codebook_size: int = Field(default=1024, ge=2, le=2**24)
    code_groups: int = Field(default=1, ge=1, le=64)
    """Equal parts that a vector is cut into, each with codebooks of its own (TiCodec's
    n_code_groups); must divide code_dim."""
    code_residuals: int = Field(default=1, ge=1, le=64)
    """Rounds of quantisation, each of what the rounds before it left over (TiCodec's
    residul_layer). A position takes code_groups x code_residuals codes. The speech decoder writes
    one, so stage 3.2 needs 1 of either."""
    code_dim: Size = 512
    quantizer: Literal["learned", "ema"] = "learned"
    """learned: codebook trained by its loss (TiCodec). ema: moving average with restart of dead
    codes."""
    num_global_tokens: Size = 8
    global_dim: Size = 128
    """Width of the global (speaker) vector; must be divisible by num_global_tokens."""
    segment: Size = 24000
    """Samples per training crop."""

    @model_validator(mode="after")
    def _shapes(self) -> CodecSpec:
        if self.global_dim % self.num_global_tokens:
            raise ValueError(
                f"global_dim {self.global_dim} is not a multiple of num_global_tokens "
                f"{self.num_global_tokens}"
            )
        if self.code_dim % self.code_groups:
            raise ValueError(
                f"code_dim {self.code_dim} is not a multiple of code_groups {self.code_groups}"
            )
        if self.variant == "ticodec" and self.kind != "waveform":
            raise ValueError(f"variant ticodec is a way to compute kind waveform, not {self.kind}")
        if self.variant == "ticodec" and self.segment < LONGEST_WINDOW:
            raise ValueError(
                f"segment {self.segment} is below {LONGEST_WINDOW}, the longest window of the "
                f"discriminators of variant ticodec"
            )
        if self.segment < self.hop_length:
            raise ValueError(
                f"segment {self.segment} is below hop_length {self.hop_length}: a crop would hold "
                f"no code"
            )
        problem = self._waveform_problem() if self.kind == "waveform" else self._spectral_problem()
        if problem:
            raise ValueError(problem)
        return self

    @property
    def num_codebooks(self) -> int:
        """Codes of a position."""
        return self.code_groups * self.code_residuals

    def _waveform_problem(self) -> str:
        rates, kernels = self.upsample_rates, self.upsample_kernels
        if len(rates) != len(kernels) or not rates:
            return (
                f"upsample_rates has {len(rates)} stages, upsample_kernels {len(kernels)}: give "
                f"one kernel a rate"
            )
        if prod(rates) != self.hop_length:
            return f"upsample_rates multiply to {prod(rates)}, but hop_length is {self.hop_length}"
        if narrow := [pair for pair in zip(rates, kernels, strict=True) if pair[1] < pair[0]]:
            return (
                f"upsample_kernels has {narrow[0][1]} for rate {narrow[0][0]}: samples would be "
                f"left out"
            )
        widths = [self.channels >> stage for stage in range(1, len(rates) + 1)]
        if not widths[-1]:
            return f"channels {self.channels} cannot be halved {len(rates)} times"
        if self.global_dim not in widths:
            return (
                f"global_dim {self.global_dim} is the width of no generator stage, so that the "
                f"voice could not be "
                f"added: choose one of {', '.join(map(str, widths))}"
            )
        return ""

    def _spectral_problem(self) -> str:
        if self.hop_length % 4:
            return f"hop_length {self.hop_length} is not a multiple of 4, the frames of a code"
        return ""


class SpeechDecoderSpec(Strict):
    """NAR then AR decoder from text embeddings to codec tokens."""

    width: Size = 896
    """Must divide the language model's hidden size: each text token becomes hidden_size / width
    positions."""
    nar_layers: OptionalSize = 4
    ar_layers: Size = 4
    num_heads: Size = 14
    intermediate_size: Size = 4864
    dropout: Dropout = 0.0
    attention: Literal["auto", "flex", "sdpa"] = "auto"
    """What computes attention; the text sees itself both ways, for which varlen and flash have no
    mask. auto: sdpa."""
    text_norm: bool = True
    """Bring the text's embeddings to unit size before anything reads them; small data then
    suffices. VITA-1.5 takes them as they are: false."""
    head_bias: bool = False
    """A bias in the layer that scores codes; VITA-1.5 has one."""
    alignment: Literal["none", "durations"] = "none"
    """none: as VITA-1.5. durations: a head guesses how long each text token lasts, and text is
    placed beside the speech it stands for; little data then suffices."""
    prefix: bool = False
    """Layers that turn the language model's hidden states of the text into keys and values before
    all that the decoder sees, as in Freeze-Omni; VITA-1.5 speaks without. The option ``prefix`` of
    objective ``speech_tokens`` says how a stage trains them."""
    max_positions: Size = 2048
    max_codes: Size = 1000


class ModelSpec(Strict):
    """Everything the assembled model is made of."""

    llm: LlmSpec = LlmSpec()
    vision: VisionSpec = InternVitSpec()
    projector: ProjectorSpec = ProjectorSpec()
    audio_encoder: AudioEncoderSpec = AudioEncoderSpec()
    ctc_head: CtcHeadSpec = CtcHeadSpec()
    audio_adapter: AudioAdapterSpec = SubsamplingAdapterSpec()
    codec: CodecSpec = CodecSpec()
    speech_decoder: SpeechDecoderSpec = SpeechDecoderSpec()
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Compute and storage type of the weights; optimizer state is always float32."""

    @property
    def tokens_per_tile(self) -> int:
        """Tokens one tile takes: what the projector leaves of the tower's tokens. 256 for
        VITA-1.5."""
        return self.projector.num_tokens(self.vision.grid_size)

    @property
    def tile_tokens(self) -> TileTokens:
        """Tokens a tile takes, token merging in the tower counted."""
        return tile_tokens(self.vision, self.projector)

    @property
    def weightless(self) -> frozenset[str]:
        """Modules that hold no weights: there is nothing to train or to load."""
        return frozenset({"projector"} if self.projector.declared.weightless else ())

    @property
    def sources(self) -> dict[str, str]:
        """Module to its pretrained source, for those that have one."""
        named = {"llm": self.llm.source, "vision": self.vision.source}
        return {name: source for name, source in named.items() if source is not None}

    @property
    def pretrained(self) -> frozenset[str]:
        """Modules that are complete before any stage has trained them."""
        return self.weightless | set(self.sources)

    @model_validator(mode="after")
    def _projected(self) -> ModelSpec:
        if self.projector.declared.weightless and self.vision.feature_size != self.llm.hidden_size:
            raise ValueError(
                f"projector {self.projector.kind} passes features of width "
                f"{self.vision.feature_size} on, "
                f"llm.hidden_size is {self.llm.hidden_size}"
            )
        left = self.projector.num_tokens(
            self.vision.grid_size
        )  # raises where it cannot take the tower's tokens
        if self.vision.removals and left != self.vision.num_tokens:
            raise ValueError(
                f"projector {self.projector.kind} joins neighbours in the tower's square of "
                f"tokens, which is none after vision.merge: take linear or an mlpNx_gelu"
            )
        return self


class TokenizerSpec(Strict):
    """Where the tokenizer comes from."""

    source: str | None = None
    """Directory or hub name; none trains a byte-level BPE on the training text."""
    vocab_size: int = Field(default=1024, ge=300, le=2**24)
    """Entries of a trained tokenizer, special tokens included."""
