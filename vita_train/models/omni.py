"""The assembled model: text, images and speech in one sequence."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from vita_train.errors import DataError
from vita_train.models.attention.kernels import Kernel, kernel_for
from vita_train.models.attention.packed import packed_kind
from vita_train.models.audio.adapter import AudioAdapter, AudioPrompt, adapter_length
from vita_train.models.audio.encoder import AudioEncoder, encoder_length
from vita_train.models.inputs import OmniBatch
from vita_train.models.language.decoder import Decoded, decode
from vita_train.models.vision import VisionTower
from vita_train.models.vision.pooling import pool_tiles
from vita_train.recipe.merging import MergeSpec
from vita_train.recipe.special_ids import AUDIO_ID, IMAGE_ID

#: Shortest clip the speech encoder gives a frame for.
SHORTEST_CLIP = 7


class Omni(nn.Module):
    """Language model, vision tower with projector, speech encoder with adapter and prompt, and
    state head.

    Children keep their names from ``recipe.modules.MODULES``. A part that is missing cannot be used
    by a batch. A part without trainable parameters runs without gradients, but gradients flow
    through a frozen language model to the parts before it.
    """

    llm: Any
    vision: VisionTower
    projector: nn.Module
    audio_encoder: AudioEncoder
    audio_adapter: AudioAdapter
    audio_prompt: AudioPrompt
    state_head: nn.Linear

    def __init__(self, modules: nn.ModuleDict) -> None:
        super().__init__()
        for name in (
            "llm",
            "vision",
            "projector",
            "audio_encoder",
            "audio_adapter",
            "audio_prompt",
            "state_head",
        ):
            if name in modules:
                self.add_module(name, modules[name])

    @property
    def head_weight(self) -> Tensor:
        """The language model's output matrix (vocabulary, D), for ``chunked_cross_entropy``."""
        return self.llm.lm_head.weight

    def forward(self, batch: OmniBatch) -> Tensor:
        """Return the last hidden states (B, L, D); documents of a row never see each other.

        Raises:
            DataError: placeholders and features differ in number.
        """
        return self.read(batch).hidden

    def read(self, batch: OmniBatch, *, routers: bool = False) -> Decoded:
        """Return the last hidden states as ``forward`` does, and if asked the logits by which
        experts were chosen."""
        embeds = self.embed(batch)
        kernel = self._kernel(embeds)
        if kernel != "sdpa":
            return self.decode_flat(embeds, batch, kernel, routers=routers)
        return decode(
            self.llm, embeds, batch.position_ids, document_mask(batch.document_ids), routers=routers
        )

    def embed(self, batch: OmniBatch) -> Tensor:
        """Return input embeddings (B, L, D) with media features at their placeholders, in reading
        order.

        Where some rank has a modality and this one has not, a dummy passes through the same modules
        with weight zero, so that all ranks make the same collective calls in forward and backward.
        """
        ids = batch.input_ids
        # Placeholders are negative ids; the rows looked up for them are written over by _place
        embeds = self.llm.get_input_embeddings()(ids.clamp(min=0))
        tiles, fbank, lengths = batch.tiles, batch.fbank, batch.fbank_lengths
        features, real = None, True
        if tiles is not None and len(tiles):
            features = self.image_features(tiles, batch.tile_tokens)
        elif "image" in batch.modalities:
            features, real = self._dummy_image(batch.tile_tokens, ids.device), False
        embeds = _place(embeds, ids == IMAGE_ID, features, real, "image", batch.sample_ids)
        features, real = None, True
        if fbank is not None and lengths is not None and len(fbank):
            features = self.audio_features(fbank, lengths)
        elif "audio" in batch.modalities:
            features, real = self.audio_features(*self._dummy_clip(ids.device)), False
        return _place(embeds, ids == AUDIO_ID, features, real, "audio", batch.sample_ids)

    def image_features(self, tiles: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Return the tokens of tiles (N, 3, S, S), joined in order: (positions, D).

        Each tile has as many as tower and projector give, or as ``tokens`` (N,) says it is pooled
        or merged to.
        """
        if tokens is not None and self.vision.spec.merge is not None:
            return self._merged_features(tiles, tokens, self.vision.spec.merge)
        features = self._project(tiles)
        with _gradients(self.vision, self.projector):
            return features.flatten(0, 1) if tokens is None else pool_tiles(features, tokens)

    def _project(self, tiles: Tensor, removals: Sequence[int] = ()) -> Tensor:
        """Return the tokens of tiles (N, 3, S, S) behind the projector, (N, T, D); the tower merges
        ``removals`` away."""
        with _gradients(self.vision):
            features = (
                self.vision.merged(tiles, removals).hidden if removals else self.vision(tiles)
            )
        with _gradients(self.vision, self.projector):
            return self.projector(features)

    def _merged_features(self, tiles: Tensor, tokens: Tensor, merge: MergeSpec) -> Tensor:
        """Return the tokens of tiles of which the tower merges those that are not to stay whole.

        With ``slowfast`` both kinds pass through the tower on every rank, whichever it has, so that
        all make the same collective calls.
        """
        spec = self.vision.spec
        whole = tokens == spec.num_tokens
        if (wrong := ~whole & (tokens != spec.merged_tokens)).any():
            raise DataError(
                f"a tile has {int(tokens[wrong][0])} positions in the text, but the tower leaves "
                f"{spec.merged_tokens} of {spec.num_tokens} tokens",
                code="VT-DATA-082",
                where="batch",
                remedy="prepare the data again with the model settings of this recipe",
            )
        # The tile that each position belongs to
        owner = torch.arange(len(tokens), device=tiles.device).repeat_interleave(tokens)
        parts, places, nothing = [], [], torch.zeros((), device=tiles.device)
        # Merged before whole on every rank: collective calls are matched by their order
        for chosen, removals in ((~whole, spec.removals), (whole, ())):
            if chosen.any():
                parts.append(self._project(tiles[chosen], removals).flatten(0, 1))
                places.append(chosen[owner].nonzero().flatten())
            elif merge.slowfast:
                dummy = self._project(self._dummy_tiles(1, tiles.device), removals)
                nothing = nothing + dummy.sum() * 0
        # Back into reading order
        return torch.cat(parts)[torch.cat(places).argsort()] + nothing

    def audio_features(self, fbank: Tensor, lengths: Tensor) -> Tensor:
        """Return the tokens of clips (A, T, bins), padding left out, joined in order: (positions,
        D).

        Each clip's begin with the audio prompt where the model has one.
        """
        with _gradients(self.audio_encoder):
            frames, frame_lengths = self.audio_encoder(fbank, lengths)
        with _gradients(self.audio_encoder, self.audio_adapter):
            hidden, counts = self.audio_adapter(frames, frame_lengths)
        if "audio_prompt" in self._modules:
            hidden, counts = self.audio_prompt(hidden, counts)
        # (A, T, D) -> (positions, D), clip after clip
        real = torch.arange(hidden.shape[1], device=hidden.device) < counts[:, None]
        return hidden[real]

    def audio_positions(self, frames: int) -> int:
        """Return the tokens of a clip of so many filterbank frames."""
        prompt = len(self.audio_prompt.weight) if "audio_prompt" in self._modules else 0
        return prompt + int(
            adapter_length(encoder_length(torch.tensor(frames)), self.audio_adapter.stride)
        )

    def _dummy_image(self, tokens: Tensor | None, device: torch.device) -> Tensor:
        """Return features of nothing that pass through the tower as those of other ranks do."""
        spec = self.vision.spec
        if tokens is None or spec.merge is None:
            return self.image_features(self._dummy_tiles(1, device))
        both = torch.tensor([spec.merged_tokens, spec.num_tokens], device=device)
        count = 2 if spec.merge.slowfast else 1
        return self.image_features(self._dummy_tiles(count, device), both[:count])

    def _dummy_tiles(self, count: int, device: torch.device) -> Tensor:
        side = self.vision.spec.tile_size
        return torch.zeros(count, 3, side, side, device=device)

    def _dummy_clip(self, device: torch.device) -> tuple[Tensor, Tensor]:
        bins = self.audio_encoder.spec.num_mel_bins
        return torch.zeros(1, SHORTEST_CLIP, bins, device=device), torch.tensor(
            [SHORTEST_CLIP], device=device
        )

    def _kernel(self, embeds: Tensor) -> Kernel:
        """Return what computes the language model's attention."""
        return kernel_for(
            packed_kind(self.llm.config),
            embeds.device,
            half=_half_precision(embeds),
            trains=torch.is_grad_enabled(),
        )

    def decode_flat(
        self, embeds: Tensor, batch: OmniBatch, kernel: Kernel, *, routers: bool = False
    ) -> Decoded:
        """Return the last hidden states (B, L, D) of embeddings read as one long row of documents,
        without a mask."""
        # Padding of a row is a document of its own here, which no label supervises
        starts = document_starts(batch.document_ids)
        packing: dict[str, Any] = {
            "cu_seq_lens_q": starts,
            "max_length_q": int(starts.diff().max()),
            "document_kernel": kernel,
        }
        read = decode(
            self.llm,
            # (B, L, D) -> (1, B * L, D)
            embeds.flatten(0, 1)[None],
            batch.position_ids.flatten()[None],
            None,
            routers=routers,
            **packing,
        )
        return read._replace(hidden=read.hidden.view_as(embeds))


def document_mask(document_ids: Tensor) -> Tensor:
    """Return (B, 1, L, L) bool: a position sees itself and what stands before it in its own
    document.

    Padding (document 0) sees padding, which keeps every row of the softmax defined.
    """
    length = document_ids.shape[1]
    same = document_ids[:, :, None] == document_ids[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool, device=document_ids.device).tril()
    return (same & causal)[:, None]


def document_starts(document_ids: Tensor) -> Tensor:
    """Return the int32 offsets at which documents (B, L) begin in the flattened batch, and the
    end."""
    # A row always begins a document: without this the last of one and the first of the next could
    # join, as both may have the same number
    changes = torch.ones_like(document_ids, dtype=torch.bool)
    changes[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    starts = changes.flatten().nonzero().flatten()
    end = starts.new_tensor([document_ids.numel()])
    return torch.cat((starts, end)).to(torch.int32)


def _half_precision(embeds: Tensor) -> bool:
    # Under autocast embeddings are float32, but what attention reads of them is not
    return torch.is_autocast_enabled(embeds.device.type) or embeds.dtype != torch.float32


def is_frozen(module: nn.Module) -> bool:
    """True if no parameter of the module is trained."""
    return not any(parameter.requires_grad for parameter in module.parameters())


def _gradients(*modules: nn.Module) -> AbstractContextManager[object]:
    """No gradients where none of the modules up to here is trained."""
    return torch.set_grad_enabled(
        torch.is_grad_enabled() and not all(is_frozen(module) for module in modules)
    )


def _place(
    embeds: Tensor,
    where: Tensor,
    features: Tensor | None,
    real: bool,
    kind: str,
    sample_ids: Sequence[str],
) -> Tensor:
    """Put features (positions, D) where ``where`` (B, L) is true; those of a dummy are added with
    weight zero."""
    places, found = int(where.sum()), len(features) if features is not None and real else 0
    if places != found:
        shown = ", ".join(sample_ids[:8]) + (
            f" and {len(sample_ids) - 8} more" if len(sample_ids) > 8 else ""
        )
        raise DataError(
            f"{places} {kind} positions in the text but {found} {kind} features",
            code="VT-DATA-033",
            where=f"samples {shown}" if shown else "batch",
            remedy="prepare the data again with the model settings of this recipe",
        )
    if features is None:
        return embeds
    if not real:
        # Not left out: without a path to the loss the modules' gradients would be missing on this
        # rank only
        return embeds + features.sum().to(embeds.dtype) * 0
    # Filled row by row, the order in which media are read
    return embeds.masked_scatter(where[..., None], features.to(embeds.dtype))
