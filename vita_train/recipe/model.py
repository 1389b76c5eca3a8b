"""Shapes and sources of the model's parts. Defaults are those of VITA-1.5 on Qwen2.5-7B."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vita_train.recipe.audio import AudioAdapterSpec, AudioEncoderSpec, SubsamplingAdapterSpec
from vita_train.recipe.base import Strict
from vita_train.recipe.family import Family
from vita_train.recipe.towers.internvit import InternVitSpec
from vita_train.recipe.vision import ProjectorSpec, VisionSpec


class MoeSpec(Strict):
    """Experts in place of the feed-forward layer of each block. Names are those of transformers' Mixtral."""

    num_local_experts: int = Field(default=8, ge=2)
    num_experts_per_tok: int = Field(default=2, ge=1)
    """Experts that read each position."""
    router_aux_loss_coef: float = Field(default=0.02, ge=0)
    """Weight of the load-balancing loss while the language model trains."""

    @model_validator(mode="after")
    def _enough(self) -> MoeSpec:
        if self.num_experts_per_tok > self.num_local_experts:
            raise ValueError(f"num_experts_per_tok {self.num_experts_per_tok} is above num_local_experts "
                             f"{self.num_local_experts}")
        return self


class LlmSpec(Strict):
    """The language model. A recipe that names another family than the default one gets that family's published
    sizes, template and state mode wherever it gives none."""

    source: str | None = None
    """Directory or hub name with pretrained weights; none trains a stand-in in stage 0.llm."""
    prefix: str = ""
    """What every tensor's name in the source begins with, where it is a part of a larger model:
    ``language_model.``."""
    ignore: tuple[str, ...] = ()
    """Patterns of tensors of the source that may go unused. All others must have a place in the model."""
    family: Family = "qwen2p5_instruct"
    """Chooses the architecture: Qwen2 (both qwen families), Mistral (nemo), Mixtral or Llama."""
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
    attention: Literal["auto", "sdpa"] = "auto"
    """How packed documents are kept apart. auto: nothing is computed across documents (torch's variable-length kernel
    on GPUs in half precision, one document after the other on processors). sdpa: by a mask over the whole row."""
    init: Literal["normal", "mimetic"] = "normal"
    """How a model without a source begins. normal: as the family's own initialisation. mimetic: with keys equal to
    queries, so that attention begins by finding equal tokens again; small models learn from little text sooner."""
    head_dim: int | None = None
    """Width of an attention head; none is hidden_size / num_heads."""
    moe: MoeSpec | None = None
    """Experts; of family mixtral-8x7b, and of no other."""

    @model_validator(mode="after")
    def _experts(self) -> LlmSpec:
        if (self.moe is not None) != (self.family == "mixtral-8x7b"):
            raise ValueError("family mixtral-8x7b needs moe" if self.moe is None else
                             f"moe is given, but family {self.family} has no experts")
        return self


class CtcHeadSpec(Strict):
    """Units of the recogniser of stage 2.1a."""

    units: Literal["char", "word"] = "char"
    """What is recognised. The inventory comes from the training transcripts; blank is unit 0."""


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
        """Language positions one tile takes: what the projector leaves of the tower's tokens. 256 for VITA-1.5."""
        return self.projector.num_tokens(self.vision.grid_size)

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
    def given(self) -> frozenset[str]:
        """Modules that are complete before any stage has trained them."""
        return self.weightless | set(self.sources)

    @model_validator(mode="after")
    def _projected(self) -> ModelSpec:
        if self.projector.declared.weightless and self.vision.feature_size != self.llm.hidden_size:
            raise ValueError(f"projector {self.projector.kind} passes features of width {self.vision.feature_size} on, "
                             f"llm.hidden_size is {self.llm.hidden_size}")
        self.projector.num_tokens(self.vision.grid_size)  # raises where it cannot take the tower's tokens
        return self


class TokenizerSpec(Strict):
    """Where the tokenizer comes from."""

    source: str | None = None
    """Directory or hub name; none trains a byte-level BPE on the training text."""
    vocab_size: int = Field(default=1024, ge=300)
    """Entries of a trained tokenizer, special tokens included."""
