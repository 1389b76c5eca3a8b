"""The speech decoder: reply text to codec tokens, first non-autoregressive over the text, then autoregressive.

It reads the language model's *input embeddings* of the reply, never its hidden states; each text token becomes
``hidden_size / width`` positions. Layout of a row, every position with its own mask and rotary index::

    separator  NAR(text)  start  y1 ... yT          targets from ``start`` on: y1 ... yT end

The text block sees all of itself; speech sees the whole text block and earlier speech. Speech positions count on from
the real end of the text, so that nothing depends on padding. Source: VITA-1.5 (Fu et al. 2025), Freeze-Omni (Wang et
al. 2024). Different from the public code: mean loss per token, independent depths, dropout before the parts are
joined, positions per sample, special ids never generated, no second target after the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm

from vita_train.errors import DataError
from vita_train.models.sampling import penalise_repetition, sample
from vita_train.recipe.model import ModelSpec

ROPE_THETA = 10000.0
NUM_SPECIAL = 4
IGNORE = -100


@dataclass(frozen=True)
class TokenLoss:
    """Sums over the supervised positions of a batch."""

    loss_sum: Tensor
    """Cross-entropy in nats, with gradient."""
    count: Tensor
    """Supervised positions: every code and every end."""
    correct: Tensor
    """Positions whose most likely id is the target."""


class SpeechDecoder(nn.Module):
    """NAR and AR Llama layers from text embeddings (B, n, llm.hidden_size) to codes.

    ``voice`` holds the codec's global tokens the decoder speaks with.
    """

    voice: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec.speech_decoder
        size, width = spec.codec.codebook_size, self.spec.width
        self.separator, self.start, self.end, self.padding = range(size, size + NUM_SPECIAL)
        self.num_codes = size
        config = LlamaConfig(
            hidden_size=width, intermediate_size=self.spec.intermediate_size, num_attention_heads=self.spec.num_heads,
            num_key_value_heads=self.spec.num_heads, attention_dropout=self.spec.dropout,
            max_position_embeddings=self.spec.max_positions, vocab_size=size + NUM_SPECIAL,
            num_hidden_layers=self.spec.nar_layers + self.spec.ar_layers,
        )
        config._attn_implementation = "sdpa"
        self.dropout = nn.Dropout(self.spec.dropout)
        self.embedding = nn.Embedding(size + NUM_SPECIAL, width)
        self.nar_layers = nn.ModuleList(LlamaDecoderLayer(config, i) for i in range(self.spec.nar_layers))
        self.ar_layers = nn.ModuleList(LlamaDecoderLayer(config, i) for i in range(self.spec.ar_layers))
        self.norm = LlamaRMSNorm(width, eps=config.rms_norm_eps)
        self.head = nn.Linear(width, size + NUM_SPECIAL, bias=False)
        self.register_buffer("voice", torch.zeros(spec.codec.num_global_tokens, dtype=torch.long))
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(
        self, text_embeds: Tensor, text_lengths: Tensor, codes: Tensor, code_lengths: Tensor, *,
        label_smoothing: float = 0.0,
    ) -> TokenLoss:
        """Return the loss of ``codes`` given the text.

        Args:
            text_embeds: (B, n, llm.hidden_size), padded on the right.
            text_lengths: (B,) text tokens of each row.
            codes: (B, T) long; what stands beyond a row's length is ignored.
            code_lengths: (B,).
            label_smoothing: share of the target spread evenly over all ids.

        Raises:
            DataError: a row takes more positions than the model has.
        """
        text, text_lengths = self._encode_text(text_embeds, text_lengths)
        number = codes.shape[1]
        self._check_positions(int((text_lengths + code_lengths).max()) + 1)
        step = torch.arange(number + 1, device=codes.device)
        real = step[:number] < code_lengths[:, None]
        codes = torch.where(real, codes, self.padding)
        speech = self.dropout(self.embedding(F.pad(codes, (1, 0), value=self.start)))

        hidden = torch.cat([text, speech], dim=1)
        block = torch.arange(text.shape[1], device=codes.device)
        positions = torch.cat([block.expand(len(codes), -1), text_lengths[:, None] + step], dim=1)
        sees_text = (block < text_lengths[:, None])[:, None, None].expand(-1, -1, hidden.shape[1], -1)
        sees_speech = F.pad(step[:, None] >= step, (0, 0, text.shape[1], 0)).expand(len(codes), 1, -1, -1)
        mask = torch.cat([sees_text, sees_speech], dim=3)
        hidden = self._run(self.ar_layers, hidden, positions, mask)

        targets = F.pad(codes, (0, 1), value=self.padding)
        targets = torch.where(step == code_lengths[:, None], self.end, targets)
        supervised = step <= code_lengths[:, None]
        logits = self.head(self.norm(hidden[:, text.shape[1]:])).float()
        loss = F.cross_entropy(logits.transpose(1, 2), targets.masked_fill(~supervised, IGNORE), ignore_index=IGNORE,
                               reduction="sum", label_smoothing=label_smoothing)
        correct = ((logits.argmax(2) == targets) & supervised).sum()
        return TokenLoss(loss, supervised.sum(), correct)

    def generate(
        self, text_embeds: Tensor, *, top_k: int = 2, temperature: float = 1.0, repetition_penalty: float = 1.0,
        max_codes: int | None = None, generator: torch.Generator | None = None, use_cache: bool = True,
    ) -> Iterator[int]:
        """Yield codes for one text (1, n, llm.hidden_size) as they are made, until the end or ``max_codes``.

        Args:
            top_k: ids drawn from; 1 is greedy.
            temperature: divides the logits.
            repetition_penalty: above 1 makes recent codes less likely (Keskar et al. 2019).
            max_codes: at most this many; none takes the recipe's ``max_codes``.
            generator: source of randomness; none takes torch's.
            use_cache: keep keys and values; without, everything is computed anew at each code (for checking).
        """
        lengths = torch.tensor([text_embeds.shape[1]], device=text_embeds.device)
        for step in self._steps(text_embeds, lengths, top_k, temperature, repetition_penalty, max_codes, generator,
                                use_cache):
            if int(step) == self.end:
                return
            yield int(step)

    def generate_batch(
        self, text_embeds: Tensor, text_lengths: Tensor, *, top_k: int = 1, temperature: float = 1.0,
        repetition_penalty: float = 1.0, max_codes: int | None = None, generator: torch.Generator | None = None,
    ) -> list[Tensor]:
        """Return the codes (T_b,) of each of several texts (B, n, llm.hidden_size); see :meth:`generate`."""
        steps = list(self._steps(text_embeds, text_lengths, top_k, temperature, repetition_penalty, max_codes,
                                 generator, True))
        if not steps:
            return [text_lengths.new_zeros(0) for _ in text_lengths]
        rows = torch.stack(steps, dim=1)
        ended = (rows == self.end).int().cumsum(1) > 0
        return [row[~over] for row, over in zip(rows, ended, strict=True)]

    @torch.no_grad()
    def _steps(
        self, text_embeds: Tensor, text_lengths: Tensor, top_k: int, temperature: float, repetition_penalty: float,
        max_codes: int | None, generator: torch.Generator | None, use_cache: bool,
    ) -> Iterator[Tensor]:
        """Yield ids (B,), ``end`` for rows that are done, until all are."""
        text, text_lengths = self._encode_text(text_embeds, text_lengths)
        room = self.spec.max_positions - int(text_lengths.max()) - 1
        self._check_positions(self.spec.max_positions - min(room, 0))
        limit = min(self.spec.max_codes if max_codes is None else max_codes, room)
        batch, block = text.shape[:2]
        sees_text = (torch.arange(block, device=text.device) < text_lengths[:, None])[:, None, None]
        positions = torch.arange(block, device=text.device).expand(batch, -1)
        mask = sees_text.expand(-1, -1, block, -1)
        cache = DynamicCache() if use_cache else None
        if cache is not None:
            self._run(self.ar_layers, text, positions, mask, cache)
        made = text_lengths.new_full((batch, 1), self.start)
        done = torch.zeros(batch, dtype=torch.bool, device=text.device)
        for step in range(limit):
            if cache is not None:
                hidden = self._run(self.ar_layers, self.embedding(made[:, -1:]), (text_lengths + step)[:, None],
                                   F.pad(sees_text, (0, step + 1), value=True), cache)
            else:
                hidden = self._uncached(text, text_lengths, sees_text, made)
            logits = self.head(self.norm(hidden[:, -1])).float()
            logits[:, [self.separator, self.start, self.padding]] = -torch.inf
            logits = penalise_repetition(logits, made, repetition_penalty)
            chosen = sample(logits, top_k=top_k, temperature=temperature, generator=generator)
            chosen = torch.where(done, self.end, chosen)
            yield chosen
            done |= chosen == self.end
            if done.all():
                return
            made = torch.cat([made, chosen[:, None]], dim=1)

    def _uncached(self, text: Tensor, text_lengths: Tensor, sees_text: Tensor, made: Tensor) -> Tensor:
        """Run text and speech together; the straight computation that the cache must agree with."""
        block, number = text.shape[1], made.shape[1]
        step = torch.arange(number, device=text.device)
        positions = torch.cat([torch.arange(block, device=text.device).expand(len(text), -1),
                               text_lengths[:, None] + step], dim=1)
        sees_speech = F.pad(step[:, None] >= step, (0, 0, block, 0)).expand(len(text), 1, -1, -1)
        mask = torch.cat([sees_text.expand(-1, -1, block + number, -1), sees_speech], dim=3)
        return self._run(self.ar_layers, torch.cat([text, self.embedding(made)], dim=1), positions, mask)

    def _encode_text(self, embeds: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return separator and NAR(text), (B, 1 + n * ratio, width), and its real lengths, separator included."""
        text = embeds.to(self.embedding.weight.dtype).reshape(len(embeds), -1, self.spec.width)
        lengths = lengths * (embeds.shape[2] // self.spec.width)
        index = torch.arange(text.shape[1], device=text.device)
        # A row without text still needs one key to attend to; what it yields is masked later.
        valid = (index < lengths.clamp(min=1)[:, None])[:, None, None].expand(-1, -1, text.shape[1], -1)
        text = self._run(self.nar_layers, self.dropout(text), index.expand(len(text), -1), valid)
        separator = self.embedding.weight[self.separator].expand(len(text), 1, -1)
        return torch.cat([separator, text], dim=1), lengths + 1

    def _run(
        self, layers: nn.ModuleList, hidden: Tensor, positions: Tensor, mask: Tensor, cache: DynamicCache | None = None
    ) -> Tensor:
        """Apply ``layers`` to ``hidden`` (B, L, width) with positions (B, L) and mask (B, 1, L, keys), True = sees."""
        rotary = rotary_embedding(positions, self.spec.width // self.spec.num_heads, hidden.dtype)
        for layer in layers:
            hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary, past_key_values=cache)
        return hidden

    def _check_positions(self, needed: int) -> None:
        if needed > self.spec.max_positions:
            raise DataError(f"text and speech take {needed} positions, the speech decoder has "
                            f"{self.spec.max_positions}",
                            remedy="shorten the utterance or raise model.speech_decoder.max_positions")


def rotary_embedding(positions: Tensor, dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return cosines and sines (B, L, dim) of rotary positions (B, L), as Llama's layers take them."""
    rates = ROPE_THETA ** (-torch.arange(0, dim, 2, device=positions.device).float() / dim)
    angles = positions[..., None].float() * rates
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)
