"""Stage 3.1: the codec learns to rebuild speech, alone or against discriminators."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vita_train.data.loading.batch import MicroBatch
from vita_train.errors import RecipeError
from vita_train.models.codec import Codec, Discriminators, losses
from vita_train.training.objectives.base import LossOutput, Objective, Option, StageContext

if TYPE_CHECKING:
    from vita_train.data.index.sample import Sample
    from vita_train.data.sampling.order import SampleOrder

#: Batches whose vectors the moving-average codebooks start from.
START_BATCHES = 8


@dataclass
class CodecBatch(MicroBatch):
    """Two crops of each of B utterances."""

    wave: Tensor
    """(B, S), the crop that is rebuilt."""
    other: Tensor
    """(B, S), another crop of the same utterance, for the global tokens' consistency."""
    sample_ids: list[str]


@dataclass(frozen=True)
class CodecCollator:
    """Cuts two random crops of each sample; short utterances are followed by silence."""

    sample_rate: int
    segment: int
    """Samples of a crop."""

    def __call__(self, samples: Sequence[Sample], *, seed: int) -> CodecBatch:
        """Return the batch of some samples; crops follow seed and sample alone."""
        first, second, ids = [], [], []
        for sample in samples:
            wave = sample.load_wave(0, self.sample_rate)
            # crc32 rather than hash(), which differs between processes
            generator = np.random.default_rng([seed, zlib.crc32(sample.id.encode())])
            first.append(crop(wave, self.segment, generator))
            second.append(crop(wave, self.segment, generator))
            ids.append(sample.id)
        return CodecBatch(
            torch.from_numpy(np.stack(first)), torch.from_numpy(np.stack(second)), ids
        )


class CodecObjective(Objective):
    """Reconstruction, quantiser and consistency losses; where ``discriminators`` train, also their
    game."""

    options: ClassVar[dict[str, Option]] = {
        # Weight of the adversarial and feature-matching terms, when discriminators train
        "adversarial": 1.0,
        "mel": "1024=45 512=1 256=1",  # transform size and weight of each log-mel resolution
        "quantizer": losses.QUANTIZER_WEIGHT,
        "consistency": losses.CONSISTENCY_WEIGHT,
    }

    codec: Codec
    discriminators: Discriminators

    def __init__(self, context: StageContext, modules: nn.ModuleDict) -> None:
        super().__init__(context, modules)
        spec = context.recipe.model.codec
        self.collate: CodecCollator = CodecCollator(spec.sample_rate, spec.segment)
        self.mel_weights = parse_mel_weights(
            str(self.option["mel"]), where=f"stages.{context.stage}.options.mel"
        )
        plays = "discriminators" in context.spec.trainable
        if not plays and float(context.spec.options.get("adversarial", 0)) > 0:
            raise RecipeError(
                "an adversarial loss needs discriminators that train",
                code="VT-RECIPE-071",
                where=f"stages.{context.stage}.options.adversarial",
                remedy="add discriminators to the stage's trainable map, or remove the option",
            )
        self.adversarial = float(self.option["adversarial"]) if plays else 0.0
        if plays:
            # Discriminators first, as HiFi-GAN trains: the codec then meets judges that have seen
            # it
            self.phases = ("discriminators", "main")  # type: ignore[misc]

    def before_training(self, order: SampleOrder) -> None:
        """Start moving-average codebooks from the vectors of the first batches."""
        samples = self.first_samples(order, START_BATCHES)
        self.codec.start(self.collate(samples, seed=self.context.seed).to(self.context.device).wave)

    def weight(self, batch: CodecBatch) -> float:
        """Return the number of crops."""
        return float(len(batch.sample_ids))

    def largest_batch(self, rows: int) -> CodecBatch:
        """Return crops, which are all of one length."""
        wave = torch.zeros(rows, self.context.recipe.model.codec.segment)
        return CodecBatch(wave, wave.clone(), [str(row) for row in range(rows)])

    def train_parameters(self, phase: str) -> Iterable[nn.Parameter]:
        """Return the discriminators' parameters in their phase, the codec's otherwise."""
        return (
            self.discriminators.parameters()
            if phase == "discriminators"
            else self.codec.parameters()
        )

    def forward(self, batch: CodecBatch, phase: str = "main") -> LossOutput:
        """Return the loss of one phase, a mean over the crops times their number."""
        count = float(len(batch.wave))
        loss, terms = self._judge(batch) if phase == "discriminators" else self._rebuild(batch)
        return LossOutput(
            loss * count,
            count,
            {name: (term.detach() * count, count) for name, term in terms.items()},
        )

    def _judge(self, batch: CodecBatch) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            # The codec pads to whole codes; what is behind the wave is not judged
            made = self.codec(batch.wave).wave[:, : batch.wave.shape[1]]
        loss = losses.discriminator_loss(self.discriminators(batch.wave), self.discriminators(made))
        return loss, {"discriminators": loss}

    def _rebuild(self, batch: CodecBatch) -> tuple[Tensor, dict[str, Tensor]]:
        output = self.codec(batch.wave)
        made = output.wave[:, : batch.wave.shape[1]]
        spec = self.context.recipe.model.codec
        with torch.no_grad():
            # A fixed target: both crops drawn to each other would be content with one voice for all
            other = self.codec.global_vector(batch.other)
        terms = {
            "mel": losses.mel_loss(
                batch.wave, made, spec.sample_rate, self.mel_weights, spec.variant
            ),
            "quantizer": float(self.option["quantizer"]) * output.quantizer_loss,
            "consistency": float(self.option["consistency"])
            * losses.consistency_loss(output.global_vector, other),
        }
        if self.adversarial > 0:
            of_made = self.discriminators(made)
            with torch.no_grad():
                of_real = self.discriminators(batch.wave)
            terms["adversarial"] = self.adversarial * losses.adversarial_loss(of_made)
            terms["features"] = self.adversarial * losses.feature_matching_loss(of_real, of_made)
        return torch.stack(list(terms.values())).sum(), terms

    def after_step(self, step: int) -> None:
        """Move moving-average codebooks and restart dead codes."""
        self.codec.after_step()


def parse_mel_weights(text: str, *, where: str) -> Mapping[int, float]:
    """Return transform sizes and weights of ``1024=45 512=1``.

    Raises:
        RecipeError: the text is not of that form.
    """
    try:
        weights = {
            int(size): float(weight) for size, weight in (pair.split("=") for pair in text.split())
        }
    except ValueError as error:
        raise RecipeError(
            f"{text!r} is not a list of mel resolutions",
            code="VT-RECIPE-072",
            where=where,
            remedy="write sizes and weights like 1024=45 512=1 256=1",
        ) from error
    if not weights or any(size < 64 for size in weights):
        raise RecipeError(
            f"mel resolutions {text!r} need at least one size, of 64 samples or more",
            code="VT-RECIPE-073",
            where=where,
        )
    return weights


def crop(
    wave: NDArray[np.float32], length: int, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Return ``length`` samples of ``wave`` (S,) from a random start; a shorter wave is followed by
    silence."""
    if len(wave) < length:
        return np.pad(wave, (0, length - len(wave)))
    start = generator.integers(len(wave) - length + 1)
    return wave[start : start + length]
