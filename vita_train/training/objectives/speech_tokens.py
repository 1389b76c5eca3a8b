"""Stage 3.2: the speech decoder learns codes from text embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from vita_train.data.loading.batch import MicroBatch
from vita_train.data.prepare.tokenizer import plain_ids
from vita_train.errors import DataError
from vita_train.inference.speech import speech_ids
from vita_train.models.codec import Codec
from vita_train.models.speech.decoder import SpeechDecoder
from vita_train.models.speech.prefix import SpeechPrefix
from vita_train.models.speech.reading import read_text
from vita_train.training.objectives.base import LossOutput, Objective, Option, StageContext
from vita_train.training.objectives.speech_codes import SpeechCodes, make_codes
from vita_train.training.step_plan import most_steps

if TYPE_CHECKING:
    from vita_train.data.index.sample import Sample
    from vita_train.data.sampling.order import SampleOrder


@dataclass
class SpeechTokensBatch(MicroBatch):
    """B sentences and how they sound: codes where they are known, waves where the codec still has
    to make them."""

    text_ids: Tensor
    """(B, n) long, padded with 0."""
    text_lengths: Tensor
    """(B,)."""
    codes: list[Tensor | None]
    """(T_b,) long."""
    waves: list[Tensor | None]
    """(S_b,) at the codec's rate."""
    supervised: int
    """Codes and ends of all rows."""
    sample_ids: list[str]


@dataclass(frozen=True)
class SpeechTokensCollator:
    """Tokenises what is spoken and loads the waves that have not been encoded yet."""

    tokenizer: Any
    sample_rate: int
    hop_length: int
    """Samples of a code."""
    known: SpeechCodes
    """Codes that were made before; the codec itself stays in the training process."""

    def __call__(self, samples: Sequence[Sample], *, seed: int) -> SpeechTokensBatch:
        """Return the batch of some samples; nothing in it is random."""
        codes: list[Tensor | None] = []
        waves: list[Tensor | None] = []
        supervised = 0
        for sample in samples:
            known = self.known.get(sample)
            if known is None:
                wave = torch.from_numpy(sample.load_wave(0, self.sample_rate))
                waves.append(wave)
                # What the codec will make of it, ends counted: the loop needs the number before
                # anything is encoded
                supervised += -(-len(wave) // self.hop_length) + 1
            else:
                waves.append(None)
                supervised += len(known) + 1
            codes.append(known)
        text = [self._text(sample) for sample in samples]
        lengths = torch.tensor([len(ids) for ids in text])
        return SpeechTokensBatch(
            pad_sequence(text, batch_first=True),
            lengths,
            codes,
            waves,
            supervised,
            [sample.id for sample in samples],
        )

    def _text(self, sample: Sample) -> Tensor:
        ids = speech_ids(sample.text, partial(plain_ids, self.tokenizer))
        if not ids:
            raise DataError(
                "the reply holds nothing that can be spoken",
                code="VT-DATA-038",
                where=sample.id,
                remedy="remove the record from the data of this stage",
            )
        return torch.tensor(ids)


class SpeechTokensObjective(Objective):
    """Cross-entropy of codes given text. The language model lends its input embedding, and its
    hidden states to a decoder with a prefix; the codec makes the codes.

    Each utterance is encoded alone. Where the stage meets each of them at least once, that is done
    before it begins, see `make_codes`; else as they come.
    """

    keep_float32: ClassVar[tuple[str, ...]] = ("codec",)
    options: ClassVar[dict[str, Option]] = {
        "label_smoothing": 0.0,
        # Share of the codes seen while training that are replaced by random ones
        "code_noise": 0.0,
        # How the decoder's prefix trains, where it has one: with all the rest; by itself, as
        # published, beside the layers over the text; or not at all, and it speaks without
        "prefix": "joint",
    }

    llm: Any
    codec: Codec
    speech_decoder: SpeechDecoder

    def __init__(self, context: StageContext, modules: nn.ModuleDict) -> None:
        super().__init__(context, modules)
        self._codes = SpeechCodes()
        spec = context.recipe.model.codec
        self.collate = SpeechTokensCollator(
            context.corpus.tokenizer, spec.sample_rate, spec.hop_length, self._codes
        )

    def order(self, split: str = "train") -> SampleOrder | None:
        """Return the order of batches of utterances of similar length; None if no dataset has the
        split."""
        return self.sample_order(split, bucket="frames")

    @property
    def _prefix(self) -> SpeechPrefix | None:
        """The prefix that this stage speaks with."""
        return None if self.option["prefix"] == "off" else self.speech_decoder.prefix

    def fixed_parameters(self) -> Iterable[nn.Parameter]:
        """Return what of the decoder stays as it is: what of a prefix nothing reads, all of one
        that is not used, and, where it trains by itself, what comes after the text."""
        decoder = self.speech_decoder
        if decoder.prefix is None:
            return
        if self._prefix is None:
            yield from decoder.prefix.parameters()
            return
        yield from decoder.prefix.without_use()
        if self.option["prefix"] == "alone":
            for part in (decoder.embedding, decoder.ar_layers, decoder.norm, decoder.head):
                yield from part.parameters()

    def before_training(self, order: SampleOrder) -> None:
        """Make the codes, if the stage needs all of them; give the decoder its voice: the global
        tokens of the first utterance; and note whether it comes to speak with its prefix."""
        if self.speech_decoder.prefix is not None:
            self.speech_decoder.prefix.trained.fill_(self._prefix is not None)
        sample = self.first_samples(order, 1)[0]
        wave = torch.from_numpy(sample.load_wave(0, self.context.recipe.model.codec.sample_rate))
        self.speech_decoder.voice.copy_(self.codec.encode(wave[None].to(self.context.device))[1][0])
        context = self.context
        if context.kept is not None and self._meets_all(order):
            dev = self.order("dev")
            indexes = {
                f"{index.dataset}/{index.split}": index
                for one in (order, *([dev] if dev else []))
                for index in one.indexes.values()
            }
            self._codes.files |= make_codes(
                indexes,
                self._read_and_encoded,
                self.codec,
                context.kept,
                rank=context.rank,
                world=context.world,
            )

    def _meets_all(self, order: SampleOrder) -> bool:
        """Say whether the stage is long enough to meet every utterance."""
        utterances = sum(map(len, order.indexes.values()))
        return most_steps(self.context.spec, order) * order.batch_rows >= utterances

    def _read_and_encoded(self, sample: Sample) -> np.ndarray[Any, Any] | None:
        try:
            wave = sample.load_wave(0, self.context.recipe.model.codec.sample_rate)
        except DataError:
            return None  # the step that it belongs to says what is to be done about it
        with torch.no_grad():
            return self._encoded(torch.from_numpy(wave).to(self.context.device)).cpu().numpy()

    def weight(self, batch: SpeechTokensBatch) -> float:
        """Return the number of codes and ends."""
        return float(batch.supervised)

    def largest_batch(self, rows: int) -> SpeechTokensBatch:
        """Return utterances of the longest that the recipe takes, their codes known, with a token
        of text for every second code, as far as there are positions."""
        model, audio = self.context.recipe.model, self.context.recipe.data.audio
        rate = model.codec.sample_rate / model.codec.hop_length
        # A token of text is as many positions as fit into its embedding.
        each = model.llm.hidden_size // model.speech_decoder.width
        room = model.speech_decoder.max_positions - 3
        codes = max(1, min(int(audio.max_seconds * rate), room * 2 // 3))
        text = max(1, min(codes // 2, (room - codes) // each))
        return SpeechTokensBatch(
            torch.ones(rows, text, dtype=torch.long),
            torch.full((rows,), text),
            [torch.ones(codes, dtype=torch.long) for _ in range(rows)],
            [None] * rows,
            rows * (codes + 1),
            [str(row) for row in range(rows)],
        )

    def forward(self, batch: SpeechTokensBatch, phase: str = "main") -> LossOutput:
        """Return the summed cross-entropy; label smoothing and code noise only while training."""
        codes = [
            known if known is not None else self._encoded(cast(Tensor, wave))
            for known, wave in zip(batch.codes, batch.waves, strict=True)
        ]
        lengths = torch.tensor([len(row) for row in codes], device=batch.text_ids.device)
        # The language model is lent: this loss does not train it
        embeds, hidden = read_text(self.llm, batch.text_ids, states=self._prefix is not None)
        regularisers = {
            name: float(self.option[name]) if self.training else 0.0
            for name in ("label_smoothing", "code_noise")
        }
        loss = self.speech_decoder(
            embeds,
            batch.text_lengths,
            pad_sequence(codes, batch_first=True),
            lengths,
            text_hidden=hidden,
            **regularisers,
        )
        metrics = {"accuracy": (loss.correct, loss.count)}
        if self.context.recipe.model.speech_decoder.alignment == "durations":
            metrics["duration_error"] = (loss.duration_error, float(len(codes)))
        return LossOutput(loss.loss_sum, float(batch.supervised), metrics)

    def _encoded(self, wave: Tensor) -> Tensor:
        """Return the codes (T,) of a wave (S,), alone: what they are must not depend on the
        lengths of neighbours in a batch."""
        return self.codec.encode(wave[None])[0][0]
