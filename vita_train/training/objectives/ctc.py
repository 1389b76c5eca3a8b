"""Stage 2.1a: the speech encoder learns to recognise, by CTC (Graves et al. 2006) over characters
or words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vita_train.data.loading.batch import MicroBatch
from vita_train.data.prepare.ctc_vocab import CtcVocab
from vita_train.models.audio.encoder import AudioEncoder
from vita_train.recipe.audio import encoder_frames, frames_of_seconds
from vita_train.training.objectives.augment import Augmentation, sample_generator
from vita_train.training.objectives.base import LossOutput, Objective, Option, StageContext

if TYPE_CHECKING:
    from vita_train.data.index.sample import Sample

#: Unit 0 of the inventory.
BLANK = 0


@dataclass
class CtcBatch(MicroBatch):
    """A utterances of at most T frames; targets of all, one after the other."""

    fbank: Tensor
    """(A, T, bins)."""
    fbank_lengths: Tensor
    """(A,)"""
    targets: Tensor
    """(sum of target_lengths,) units."""
    target_lengths: Tensor
    """(A,)"""
    texts: list[str]
    """What was said."""
    sample_ids: list[str]


@dataclass(frozen=True)
class CtcCollator:
    """Pads features and joins targets."""

    vocab: CtcVocab
    augmentation: Augmentation | None
    """How features of the train split are changed, by the sample's own generator."""

    def __call__(self, samples: Sequence[Any], *, seed: int) -> CtcBatch:
        """Return the batch of some samples."""
        clips, targets = [], []
        for sample in samples:
            features = sample.load_fbank(0)
            if self.augmentation is not None and sample.split == "train":
                features = self.augmentation(features, sample_generator(seed, sample.id))
            clips.append(features)
            targets.append(torch.tensor(self.vocab.encode(sample.text), dtype=torch.long))
        return CtcBatch(
            fbank=nn.utils.rnn.pad_sequence(clips, batch_first=True),
            fbank_lengths=torch.tensor([len(clip) for clip in clips]),
            targets=torch.cat(targets),
            target_lengths=torch.tensor([len(target) for target in targets]),
            texts=[sample.text for sample in samples],
            sample_ids=[sample.id for sample in samples],
        )


class CtcObjective(Objective):
    """CTC loss, summed over utterances and divided by target units."""

    options: ClassVar[dict[str, Option]] = {
        "augment": True,  # change features at every visit
        "gain": 1.5,
        "tilt": 1.0,
        "noise": 0.5,
        "frequency_masks": 2,
        "frequency_width": 16,
        "time_masks": 2,
        "time_share": 0.05,  # see Augmentation
        "cmvn_samples": 1000,  # utterances the feature statistics are taken from
    }

    audio_encoder: AudioEncoder
    ctc_head: nn.Linear

    def __init__(self, context: StageContext, modules: nn.ModuleDict) -> None:
        super().__init__(context, modules)
        self.vocab = context.corpus.ctc_vocab
        chosen: dict[str, Any] = {
            field.name: self.option[field.name] for field in fields(Augmentation)
        }
        augmentation = Augmentation(**chosen) if self.option["augment"] else None
        self.collate = CtcCollator(self.vocab, augmentation)

    def order(self, split: str = "train") -> Any:
        """Return the order of batches of utterances of similar length."""
        return self.sample_order(split, bucket="frames")

    def before_training(self, order: Any) -> None:
        """Set the feature statistics from the first utterances, unless the encoder came with its
        own."""
        cmvn = self.audio_encoder.global_cmvn
        if bool((cmvn.mean != 0).any()) or bool((cmvn.istd != 1).any()):
            return
        batches = -(-int(self.option["cmvn_samples"]) // len(order.rows(0)))
        mean, istd = feature_statistics(self.first_samples(order, batches))
        self.audio_encoder.set_cmvn(mean.to(cmvn.mean.device), istd.to(cmvn.mean.device))

    def weight(self, batch: CtcBatch) -> float:
        """Return the number of target units."""
        return float(len(batch.targets))

    def tokens(self, batch: CtcBatch) -> float:
        """Return the number of real feature frames."""
        return float(batch.fbank_lengths.sum())

    def largest_batch(self, rows: int) -> CtcBatch:
        """Return clips of the longest that the recipe takes, one unit for every tenth of a
        second."""
        recipe = self.context.recipe
        frames = frames_of_seconds(recipe.data.audio.max_seconds)
        units = max(1, min(frames // 10, encoder_frames(frames) // 2))
        return CtcBatch(
            torch.zeros(rows, frames, recipe.model.audio_encoder.num_mel_bins),
            torch.full((rows,), frames),
            torch.ones(rows * units, dtype=torch.long),
            torch.full((rows,), units),
            [""] * rows,
            [str(row) for row in range(rows)],
        )

    def forward(self, batch: CtcBatch, phase: str = "main") -> LossOutput:
        """Return the summed negative log likelihood; in eval mode also the errors of the greedy
        transcript."""
        frames, lengths = self.audio_encoder(batch.fbank, batch.fbank_lengths)
        # float32: CTC adds up logarithms over all frames of a clip
        log_probs = self.ctc_head(frames).float().log_softmax(-1)
        # An utterance with more targets than frames has no alignment: it counts, with a loss of
        # zero.
        losses = F.ctc_loss(
            # (A, T, units) -> (T, A, units): ctc_loss wants time first
            log_probs.transpose(0, 1),
            batch.targets,
            lengths,
            batch.target_lengths,
            blank=BLANK,
            reduction="none",
            zero_infinity=True,
        )
        metrics: dict[str, tuple[Any, Any]] = {
            "unaligned": ((losses.detach() == 0).sum(), float(len(losses)))
        }
        if not self.training:
            metrics["errors"] = self._errors(log_probs, lengths, batch.texts)
        return LossOutput(losses.sum(), float(len(batch.targets)), metrics)

    def _errors(self, log_probs: Tensor, lengths: Tensor, texts: list[str]) -> tuple[float, float]:
        said = [self.vocab.encode(text) for text in texts]
        heard = greedy_decode(log_probs, lengths)
        wrong = sum(edit_distance(a, b) for a, b in zip(said, heard, strict=True))
        return float(wrong), float(sum(map(len, said)))


def greedy_decode(log_probs: Tensor, lengths: Tensor) -> list[list[int]]:
    """Return the best path of each utterance (A, T, units), repeats joined and blanks removed."""
    best = log_probs.argmax(-1).cpu()
    paths = []
    for row, length in zip(best, lengths.tolist(), strict=True):
        # Repeats first: a blank between two equal units keeps them apart
        path = torch.unique_consecutive(row[:length])
        paths.append(path[path != BLANK].tolist())
    return paths


def edit_distance(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the fewest insertions, deletions and substitutions that turn ``a`` into ``b``."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        # One row of the table is enough: `before` is the entry up and to the left
        before, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (left != right))
    return row[-1]


def feature_statistics(samples: Iterable[Sample]) -> tuple[Tensor, Tensor]:
    """Return mean and inverse standard deviation (bins,) of the features of some samples."""
    total, squares, frames = torch.zeros(()), torch.zeros(()), 0
    for sample in samples:
        # Differences of large sums: float32 would leave little of the variance
        features = sample.load_fbank(0).double()
        total, squares = total + features.sum(0), squares + features.square().sum(0)
        frames += len(features)
    mean = total / frames
    variance = (squares / frames - mean.square()).clamp(min=1e-8)
    return mean.float(), variance.rsqrt().float()
