"""The codec: speech to one code every ``hop_length`` samples plus a few global tokens, and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vita_train.models.codec.global_encoder import GlobalEncoder
from vita_train.models.codec.quantizer import (
    EmaQuantizer,
    GroupedResidualQuantizer,
    build_quantizer,
)
from vita_train.models.codec.spectral import SpectralDecoder, SpectralEncoder
from vita_train.models.codec.waveform import WaveformDecoder, WaveformEncoder
from vita_train.recipe.model import CodecSpec


@dataclass(frozen=True)
class CodecOutput:
    """A reconstruction and what training needs to know about it."""

    wave: Tensor
    """(B, T * hop)."""
    codes: Tensor
    """(B, T) long; (B, T, Q) of Q codebooks."""
    global_tokens: Tensor
    """(B, num_global_tokens) long."""
    global_vector: Tensor
    """(B, global_dim), before quantisation."""
    quantizer_loss: Tensor
    """Scalar: the codes' loss plus the global tokens'."""


class Codec(nn.Module):
    """Encoder, quantiser, global tokens, decoder. Waves are mono, float, at
    ``spec.sample_rate``."""

    def __init__(self, spec: CodecSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder: WaveformEncoder | SpectralEncoder
        self.decoder: WaveformDecoder | SpectralDecoder
        if spec.kind == "waveform":
            self.encoder, self.decoder = WaveformEncoder(spec), WaveformDecoder(spec)
        else:
            self.encoder, self.decoder = SpectralEncoder(spec), SpectralDecoder(spec)
        self.global_encoder = GlobalEncoder(
            spec, self.encoder.global_channels, "batch" if spec.kind == "waveform" else "layer"
        )
        self.quantizer = (
            build_quantizer(spec.quantizer, spec.codebook_size, spec.code_dim)
            if spec.num_codebooks == 1
            else GroupedResidualQuantizer(
                spec.quantizer,
                spec.codebook_size,
                spec.code_dim,
                spec.code_groups,
                spec.code_residuals,
            )
        )

    def forward(self, wave: Tensor) -> CodecOutput:
        """Encode and decode ``wave`` (B, S); the reconstruction has ceil(S / hop) * hop samples."""
        vectors, voice = self.encoder(self._whole_codes(wave))
        quantized, of_voice = self.quantizer(vectors), self.global_encoder(voice)
        return CodecOutput(
            wave=self.decoder(quantized.vectors, of_voice.quantized),
            codes=quantized.codes,
            global_tokens=of_voice.tokens,
            global_vector=of_voice.vector,
            quantizer_loss=quantized.loss + of_voice.loss,
        )

    @torch.no_grad()
    def encode(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """Return codes (B, ceil(S / hop)) and global tokens (B, num_global_tokens) of ``wave`` (B,
        S), both long; codes of Q codebooks are (B, ceil(S / hop), Q)."""
        vectors, voice = self.encoder(self._whole_codes(wave))
        return self.quantizer(vectors).codes, self.global_encoder(voice).tokens

    def global_vector(self, wave: Tensor) -> Tensor:
        """Return the voice of ``wave`` (B, S) before quantisation, (B, global_dim)."""
        return self.global_encoder.vector(self.encoder(self._whole_codes(wave))[1])

    @torch.no_grad()
    def decode(self, codes: Tensor, global_tokens: Tensor) -> Tensor:
        """Return the wave (B, T * hop) of ``codes`` (B, T), of Q codebooks (B, T, Q), and
        ``global_tokens`` (B, num_global_tokens)."""
        dtype = next(self.decoder.parameters()).dtype  # codebooks that are buffers stay float32
        vectors, voice = self.quantizer.lookup(codes), self.global_encoder.lookup(global_tokens)
        return self.decoder(vectors.to(dtype), voice.to(dtype))

    @torch.no_grad()
    def start(self, wave: Tensor) -> None:
        """Put the codes of moving-average codebooks on vectors of ``wave`` (B, S); call once before
        training."""
        vectors, voice = self.encoder(self._whole_codes(wave))
        self.quantizer.start(vectors)
        self.global_encoder.start(voice)

    def after_step(self) -> None:
        """Update moving-average codebooks; call after each optimizer step, on every rank."""
        for module in self.modules():
            if isinstance(module, EmaQuantizer):
                module.after_step()

    def _whole_codes(self, wave: Tensor) -> Tensor:
        """Pad ``wave`` with silence to whole codes, in the type of the weights."""
        wave = wave.to(next(self.parameters()).dtype)
        return F.pad(wave, (0, -wave.shape[1] % self.spec.hop_length))
