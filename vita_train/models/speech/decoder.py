"""The speech decoder: reply text to codec tokens, first non-autoregressive over the text, then
autoregressive.

It reads the language model's *input embeddings* of the reply, and its hidden states only where
there is a prefix of keys and values (`models.speech.prefix`); each text token becomes
``hidden_size / width`` positions. Layout of a row, every position with its own mask and rotary
index::

    separator  NAR(text)  start  y1 ... yT          targets from ``start`` on: y1 ... yT end

The text block sees all of itself; speech sees the whole text block and earlier speech. Speech
positions count on from the real end of the text, so that nothing depends on padding. Source:
VITA-1.5 (Fu et al. 2025), Freeze-Omni (Wang et al. 2024). Different from the public code: mean loss
per token, independent depths, dropout before the parts are joined, positions per sample, special
ids never generated, no second target after the end. With ``text_norm: false`` and ``head_bias:
true`` the function is the published one.

``alignment: durations`` is for small data and not part of VITA-1.5. A head guesses how many codes
each text position lasts, learned from nothing but the length of whole utterances; text and speech
are then counted from the same origin, text in guessed codes, so that what is being spoken stays at
a constant rotary distance from the speech.
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
from vita_train.models.attention.packed import masked_name
from vita_train.models.speech.layers import real_mask, run_layers
from vita_train.models.speech.prefix import PrefixKeys, SpeechPrefix
from vita_train.models.speech.sampling import penalise_repetition, sample
from vita_train.recipe.model import ModelSpec
from vita_train.recipe.special_ids import IGNORE_INDEX

FIRST_DURATION = 8.0
EMBEDDING_STD = 0.5
NUM_SPECIAL = 4


@dataclass(frozen=True)
class TokenLoss:
    """Sums over the supervised positions of a batch."""

    loss_sum: Tensor
    """Cross-entropy in nats, with gradient."""
    count: Tensor
    """Supervised positions: every code and every end."""
    correct: Tensor
    """Positions whose most likely id is the target."""
    duration_error: Tensor
    """Codes by which the guessed lengths of the utterances are wrong, part of ``loss_sum``; 0
    without alignment."""


@dataclass(frozen=True)
class _Text:
    """The text block as the AR layers see it."""

    hidden: Tensor
    """(B, M, width): separator and NAR(text)."""
    lengths: Tensor
    """(B,) real positions, separator included."""
    positions: Tensor
    """(B, M) rotary positions."""
    origin: Tensor
    """(B,) rotary position of ``start``."""
    total: Tensor | None
    """(B,) guessed codes of the utterance, with alignment."""
    prefix: PrefixKeys | None = None
    """What stands before the text in every AR layer."""

    def cache(self) -> DynamicCache:
        """Return a cache that begins with the prefix, or with nothing."""
        return DynamicCache() if self.prefix is None else self.prefix.cache()


def _mask(text: _Text, number: int) -> Tensor:
    """Return who sees whom, (B, 1, M + number, P + M + number): all see the real prefix and the
    real text, speech also earlier speech."""
    block = text.hidden.shape[1]
    place = torch.arange(block + number, device=text.hidden.device)
    real_text = place < text.lengths[:, None, None]
    earlier_speech = (place >= block) & (place <= place[:, None])
    mask = (real_text | earlier_speech)[:, None]
    return mask if text.prefix is None else text.prefix.seen(mask)


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
            hidden_size=width,
            intermediate_size=self.spec.intermediate_size,
            num_attention_heads=self.spec.num_heads,
            num_key_value_heads=self.spec.num_heads,
            attention_dropout=self.spec.dropout,
            max_position_embeddings=self.spec.max_positions,
            vocab_size=size + NUM_SPECIAL,
            num_hidden_layers=self.spec.nar_layers + self.spec.ar_layers,
        )
        config._attn_implementation = masked_name(self.spec.attention)
        self.dropout = nn.Dropout(self.spec.dropout)
        # Embeddings of language models are small (about 0.02); unnormalised, what the first layers
        # add would drown
        # which token it is, and with little data the decoder would learn to babble before it learns
        # to listen.
        self.text_norm = (
            LlamaRMSNorm(width, eps=config.rms_norm_eps) if self.spec.text_norm else nn.Identity()
        )
        self.embedding = nn.Embedding(size + NUM_SPECIAL, width)
        self.nar_layers = nn.ModuleList(
            LlamaDecoderLayer(config, i) for i in range(self.spec.nar_layers)
        )
        # Both count from 0: the index is the layer's place in the cache, which has AR layers alone
        self.ar_layers = nn.ModuleList(
            LlamaDecoderLayer(config, i) for i in range(self.spec.ar_layers)
        )
        self.norm = LlamaRMSNorm(width, eps=config.rms_norm_eps)
        self.head = nn.Linear(width, size + NUM_SPECIAL, bias=self.spec.head_bias)
        self.prefix = SpeechPrefix(config, self.spec.ar_layers) if self.spec.prefix else None
        self.duration = None
        if self.spec.alignment == "durations":
            length = nn.Linear(width, 1)
            self.duration = nn.Sequential(nn.Linear(width, width), nn.GELU(), length)
        self.register_buffer("voice", torch.zeros(spec.codec.num_global_tokens, dtype=torch.long))
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(
                    module.weight, std=0.02 if isinstance(module, nn.Linear) else EMBEDDING_STD
                )
        if self.duration is not None:
            # softplus leaves 8 nearly as it is: text positions begin with some 8 codes each
            nn.init.constant_(length.bias, FIRST_DURATION)

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks, in the order in which they run."""
        return nn.ModuleList([*self.nar_layers, *self.ar_layers])

    @property
    def has_prefix(self) -> bool:
        """Whether there is a prefix that has been trained; on the GPU, to ask waits for it."""
        return self.prefix is not None and bool(self.prefix.trained)

    def forward(
        self,
        text_embeds: Tensor,
        text_lengths: Tensor,
        codes: Tensor,
        code_lengths: Tensor,
        *,
        text_hidden: Tensor | None = None,
        code_noise: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> TokenLoss:
        """Return the loss of ``codes`` given the text.

        Args:
            text_embeds: (B, n, llm.hidden_size), padded on the right.
            text_lengths: (B,) text tokens of each row.
            codes: (B, T) long; what stands beyond a row's length is ignored.
            code_lengths: (B,).
            text_hidden: (B, n, llm.hidden_size) last hidden states, for the prefix; none speaks
                without one.
            code_noise: share of the codes it sees that are replaced by random ones, so that it must
                listen to the text.
            label_smoothing: share of the target spread evenly over all ids.

        Raises:
            DataError: a row takes more positions than the model has.
        """
        text = self._encode_text(text_embeds, text_lengths, text_hidden)
        block, number = text.hidden.shape[1], codes.shape[1]
        self._check_positions(int((text.lengths + code_lengths).max()) + 1)
        step = torch.arange(number + 1, device=codes.device)
        real = step[:number] < code_lengths[:, None]
        codes = torch.where(real, codes, self.padding)
        seen = codes
        if code_noise > 0:
            # Padding may be replaced too: it stands behind all that is supervised, which never
            # looks there
            noisy = torch.rand(codes.shape, device=codes.device) < code_noise
            seen = torch.where(noisy, torch.randint_like(codes, self.num_codes), codes)
        speech = self.dropout(self.embedding(F.pad(seen, (1, 0), value=self.start)))

        hidden = torch.cat([text.hidden, speech], dim=1)
        positions = torch.cat([text.positions, text.origin[:, None] + step], dim=1)
        hidden = self._run(self.ar_layers, hidden, positions, _mask(text, number + 1), text.prefix)

        # One place before the input: start y1 ... yT reads, y1 ... yT end is asked for
        targets = F.pad(codes, (0, 1), value=self.padding)
        targets = torch.where(step == code_lengths[:, None], self.end, targets)
        supervised = step <= code_lengths[:, None]
        logits = self.head(self.norm(hidden[:, block:])).float()
        loss = F.cross_entropy(
            # (B, T, ids) -> (B, ids, T): cross_entropy wants classes second
            logits.transpose(1, 2),
            targets.masked_fill(~supervised, IGNORE_INDEX),
            ignore_index=IGNORE_INDEX,
            reduction="sum",
            label_smoothing=label_smoothing,
        )
        correct = ((logits.argmax(2) == targets) & supervised).sum()
        error = loss.new_zeros(())
        if text.total is not None:
            error = (text.total - code_lengths).abs().sum()
        return TokenLoss(loss + error, supervised.sum(), correct, error.detach())

    def generate(
        self,
        text_embeds: Tensor,
        *,
        text_hidden: Tensor | None = None,
        top_k: int = 2,
        temperature: float = 1.0,
        repetition_penalty: float = 1.0,
        max_codes: int | None = None,
        generator: torch.Generator | None = None,
        use_cache: bool = True,
    ) -> Iterator[int]:
        """Yield codes for one text (1, n, llm.hidden_size) as they are made, until the end or
        ``max_codes``.

        Args:
            text_hidden: (1, n, llm.hidden_size), as of :meth:`forward`.
            top_k: ids drawn from; 1 is greedy.
            temperature: divides the logits.
            repetition_penalty: above 1 makes recent codes less likely (Keskar et al. 2019).
            max_codes: at most this many; none takes the recipe's ``max_codes``.
            generator: source of randomness; none takes torch's.
            use_cache: keep keys and values; without, everything is computed anew at each code (for
                checking).
        """
        lengths = torch.tensor([text_embeds.shape[1]], device=text_embeds.device)
        for step in self._steps(
            text_embeds,
            lengths,
            text_hidden,
            top_k,
            temperature,
            repetition_penalty,
            max_codes,
            generator,
            use_cache,
        ):
            if int(step) == self.end:
                return
            yield int(step)

    def generate_batch(
        self,
        text_embeds: Tensor,
        text_lengths: Tensor,
        *,
        text_hidden: Tensor | None = None,
        top_k: int = 1,
        temperature: float = 1.0,
        repetition_penalty: float = 1.0,
        max_codes: int | None = None,
        generator: torch.Generator | None = None,
    ) -> list[Tensor]:
        """Return the codes (T_b,) of each of several texts (B, n, llm.hidden_size); see
        :meth:`generate`."""
        steps = list(
            self._steps(
                text_embeds,
                text_lengths,
                text_hidden,
                top_k,
                temperature,
                repetition_penalty,
                max_codes,
                generator,
                True,
            )
        )
        if not steps:
            return [text_lengths.new_zeros(0) for _ in text_lengths]
        rows = torch.stack(steps, dim=1)
        ended = (rows == self.end).int().cumsum(1) > 0
        return [row[~over] for row, over in zip(rows, ended, strict=True)]

    @torch.no_grad()
    def _steps(
        self,
        text_embeds: Tensor,
        text_lengths: Tensor,
        text_hidden: Tensor | None,
        top_k: int,
        temperature: float,
        repetition_penalty: float,
        max_codes: int | None,
        generator: torch.Generator | None,
        use_cache: bool,
    ) -> Iterator[Tensor]:
        """Yield ids (B,), ``end`` for rows that are done, until all are."""
        text = self._encode_text(text_embeds, text_lengths, text_hidden)
        # - 1 for the start
        room = self.spec.max_positions - int(text.lengths.max()) - 1
        self._check_positions(self.spec.max_positions - min(room, 0))
        limit = min(self.spec.max_codes if max_codes is None else max_codes, room)
        cache = text.cache() if use_cache else None
        if cache is not None:
            self._run(self.ar_layers, text.hidden, text.positions, _mask(text, 0), cache)
        made = text.lengths.new_full((len(text.lengths), 1), self.start)
        done = torch.zeros_like(text.lengths, dtype=torch.bool)
        for step in range(limit):
            if cache is not None:
                hidden = self._run(
                    self.ar_layers,
                    self.embedding(made[:, -1:]),
                    (text.origin + step)[:, None],
                    # The row of the newest position
                    _mask(text, step + 1)[:, :, -1:],
                    cache,
                )
            else:
                hidden = self._uncached(text, made)
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

    def _uncached(self, text: _Text, made: Tensor) -> Tensor:
        """Run text and speech together; the straight computation that the cache must agree with."""
        step = torch.arange(made.shape[1], device=made.device)
        positions = torch.cat([text.positions, text.origin[:, None] + step], dim=1)
        hidden = torch.cat([text.hidden, self.embedding(made)], dim=1)
        mask = _mask(text, made.shape[1])
        return self._run(self.ar_layers, hidden, positions, mask, text.prefix)

    def _encode_text(self, embeds: Tensor, lengths: Tensor, states: Tensor | None = None) -> _Text:
        """Run the NAR layers over text embeddings (B, n, llm.hidden_size) and put the separator in
        front; make the prefix of hidden states of the same shape."""
        # (B, n, D) -> (B, n * D / width, width): a token's vector is cut into positions, in order
        hidden = embeds.to(self.embedding.weight.dtype).reshape(len(embeds), -1, self.spec.width)
        lengths = lengths * (embeds.shape[2] // self.spec.width)
        prefix = None
        if states is not None and self.prefix is not None:
            prefix = self.prefix(states.to(hidden.dtype).reshape_as(hidden), lengths)
        index = torch.arange(hidden.shape[1] + 1, device=hidden.device).expand(len(hidden), -1)
        # Of a row without text one position stays; what it yields is masked later.
        valid = real_mask(lengths, hidden.shape[1])
        token = self.text_norm(hidden)
        hidden = self._run(self.nar_layers, self.dropout(token), index[:, :-1], valid)
        separator = self.embedding(lengths.new_full((len(hidden), 1), self.separator))
        joined = torch.cat([separator, hidden], dim=1)
        if self.duration is None:
            return _Text(joined, lengths + 1, index, lengths + 1, None, prefix)
        # From the token alone: with context, any split of the right sum would do and words would
        # lose their places.
        durations = F.softplus(self.duration(token)[:, :, 0].float())
        durations = durations * (index[:, :-1] < lengths[:, None])
        # Exclusive sums: where each position begins, the separator at 0. Detached: lengths are
        # learned from the sum of an utterance alone
        begins = F.pad((durations.cumsum(1) - durations).detach(), (1, 0))
        origin, total = torch.zeros_like(lengths), durations.sum(1)
        return _Text(joined, lengths + 1, begins, origin, total, prefix)

    def _run(
        self,
        layers: nn.ModuleList,
        hidden: Tensor,
        positions: Tensor,
        mask: Tensor,
        past: PrefixKeys | DynamicCache | None = None,
    ) -> Tensor:
        """Apply layers as `run_layers` does."""
        size = self.spec.width // self.spec.num_heads
        return run_layers(layers, hidden, positions, mask, size, past)

    def _check_positions(self, needed: int) -> None:
        if needed > self.spec.max_positions:
            raise DataError(
                f"text and speech take {needed} positions, the speech decoder has "
                f"{self.spec.max_positions}",
                code="VT-DATA-034",
                remedy="shorten the utterance or raise model.speech_decoder.max_positions",
            )
