"""Encoding a clip while it is heard."""

from __future__ import annotations

import torch
from torch import Tensor

from vita_train.errors import RecipeError
from vita_train.models.audio.attention import KeyValueCache
from vita_train.models.audio.encoder import AudioEncoder
from vita_train.recipe.audio import encoder_frames

#: Feature frames that become one encoder frame, and those beyond them that its convolutions look
#: at.
_STEP, _AHEAD = 4, 3


class AudioStream:
    """One clip, fed in pieces. Together the pieces give what ``AudioEncoder.forward`` gives for the
    whole.

    A chunk is encoded as soon as its frames have been heard: ``chunk_size`` frames of 40 ms, and 30
    ms more that the convolutions look ahead. What later chunks may see of it is kept as keys and
    values, in each block.

    Args:
        encoder: in eval mode, with ``chunk_size`` in its settings and without ``conv_kernel``.

    Raises:
        RecipeError: the encoder's frames see what has not been heard yet.
    """

    def __init__(self, encoder: AudioEncoder) -> None:
        spec = encoder.spec
        if not spec.chunk_size:
            raise RecipeError(
                "every frame of this speech encoder sees the whole clip",
                code="VT-RECIPE-016",
                where="model.audio_encoder.chunk_size",
                remedy="set the size of a chunk to encode a clip while it is heard",
            )
        if spec.conv_kernel:
            raise RecipeError(
                "the convolution in this speech encoder's blocks looks beyond the chunk",
                code="VT-RECIPE-017",
                where="model.audio_encoder.conv_kernel",
                remedy="set it to 0 and train the encoder again, or encode whole clips",
            )
        self.encoder = encoder
        self._heard = torch.zeros(0, spec.num_mel_bins, device=encoder.global_cmvn.mean.device)
        self._caches = [KeyValueCache() for _ in encoder.blocks]
        self._position = 0
        """Frames of the present window that are encoded."""

    @torch.no_grad()
    def push(self, fbank: Tensor) -> Tensor:
        """Take the next feature frames (T, bins), any number; return the encoder frames (N, width)
        of whole chunks."""
        self._heard = torch.cat((self._heard, fbank.to(self._heard)))
        return self._drain(last=False)

    @torch.no_grad()
    def finish(self) -> Tensor:
        """Return the encoder frames (N, width) of the rest; the stream then stands at the beginning
        of a new clip."""
        encoded = self._drain(last=True)
        self._heard = self._heard[:0]
        self._begin_window()
        return encoded

    def _drain(self, *, last: bool) -> Tensor:
        done = [
            torch.zeros(
                0,
                self.encoder.spec.width,
                device=self._heard.device,
                dtype=self.encoder.after_norm.weight.dtype,
            )
        ]
        while (present := encoder_frames(len(self._heard))) and (
            last or present >= self._next_chunk
        ):
            size = min(present, self._next_chunk)
            done.append(self._encode(self._heard[: _STEP * size + _AHEAD]))
            # What was looked ahead at stays: the next chunk's convolutions begin with it
            self._heard = self._heard[_STEP * size :]
        return torch.cat(done)

    @property
    def _next_chunk(self) -> int:
        """Frames of the next chunk; the last of a window may be shorter."""
        return min(self.encoder.spec.chunk_size, self.encoder.spec.max_positions - self._position)

    def _encode(self, fbank: Tensor) -> Tensor:
        """Return the frames (N, width) of one chunk of features."""
        encoder, spec = self.encoder, self.encoder.spec
        frames = encoder.subsample(
            fbank[None], torch.zeros(1, len(fbank), dtype=torch.bool, device=fbank.device)
        )
        time, held = frames.shape[1], len(self._caches[0])
        self._position += time
        # Keys are those held from earlier chunks, then the new ones
        positions = encoder.positions(time, self._position - held - time, self._position, frames)
        # All that is held may be seen: what may not has been dropped from the cache
        seen = torch.ones(1, 1, held + time, dtype=torch.bool, device=fbank.device)
        padding = torch.zeros(1, time, dtype=torch.bool, device=fbank.device)
        for block, cache in zip(encoder.blocks, self._caches, strict=True):
            frames = block(frames, positions, seen, padding, cache)
            if spec.left_chunks >= 0:
                cache.keep(spec.left_chunks * spec.chunk_size)
        if self._position == spec.max_positions:
            self._begin_window()
        return encoder.after_norm(frames)[0]

    def _begin_window(self) -> None:
        self._position = 0
        self._caches = [KeyValueCache() for _ in self._caches]
