"""Next-token prediction by the omni model: every stage in which the language model takes part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from vita_train.data.collate import collate_rows
from vita_train.data.loader import packed_order
from vita_train.models.inputs import IGNORE_ID
from vita_train.models.loss import chunked_cross_entropy
from vita_train.models.omni import Omni
from vita_train.recipe.ladder import MODULES
from vita_train.training.objectives.augment import Augmentation, sample_generator
from vita_train.training.objectives.base import LossOutput, Objective, Option, StageContext

if TYPE_CHECKING:
    from vita_train.data.batch import Batch
    from vita_train.data.index import Corpus
    from vita_train.recipe.stage import StageSpec

_MODALITY = {"image": ("vision", "projector"), "audio": ("audio_encoder", "audio_adapter", "audio_prompt")}


class NextTokenObjective(Objective):
    """Cross-entropy of the supervised positions of packed rows."""

    modules_needed: ClassVar[tuple[str, ...]] = ("llm",)
    modules_optional: ClassVar[tuple[str, ...]] = ("vision", "projector", "audio_encoder", "audio_adapter",
                                                  "audio_prompt")
    options: ClassVar[dict[str, Option]] = {
        "chunk": 2048,  # most positions whose logits exist at a time
        "augment": False,  # change speech features at every visit, as stage 2.1a does
    }

    omni: Omni

    def __init__(self, context: StageContext, modules: nn.ModuleDict) -> None:
        super().__init__(context, modules)
        # Hidden from torch: its children are this objective's own children under the same names.
        object.__setattr__(self, "omni", Omni(nn.ModuleDict(dict(self.named_children()))))
        self.augmentation = Augmentation()
        self.pad_id = int(context.corpus.tokenizer.pad_token_id)
        trained = context.spec.trainable
        self.always = frozenset(kind for kind, names in _MODALITY.items() if any(name in trained for name in names))
        """Modalities whose modules train here: they take part in every batch, with weight zero where it has none, so
        that all engines see the same parameters in use at every step."""

    @classmethod
    def modules_used(cls, spec: StageSpec, corpus: Corpus) -> tuple[str, ...]:
        """Return the language model, what the data needs and what the stage trains."""
        wanted = set(super().modules_used(spec, corpus))
        indices = [corpus.index(name, "train") for name in spec.datasets]
        if any(index.tiles.any() for index in indices):
            wanted |= {"vision", "projector"}
        for index in indices:
            if index.frames.any():
                wanted |= set(index.settings.adapter.modules)
        return tuple(name for name in MODULES if name in wanted)

    def order(self, split: str = "train") -> Any:
        """Return the order of packed rows."""
        return packed_order(self.context.corpus, self.context.spec, seed=self.context.seed, split=split)

    def collate(self, samples: Sequence[Any], *, seed: int) -> Batch:
        """Lay the samples of each row one after the other and read their media."""
        batch = collate_rows(samples, pad_id=self.pad_id, row_tokens=self.context.spec.batch.row_tokens)
        if self.option["augment"] and batch.fbank is not None and batch.fbank_lengths is not None:
            names = [f"{sample.id}#{clip}" for row in samples for sample in row for clip in range(len(sample.audios))]
            training = all(sample.split == "train" for row in samples for sample in row)
            for clip, (name, length) in enumerate(zip(names, batch.fbank_lengths.tolist(), strict=True)):
                if training:
                    batch.fbank[clip, :length] = self.augmentation(batch.fbank[clip, :length],
                                                                   sample_generator(seed, name))
        return batch

    def weight(self, batch: Batch) -> float:
        """Return the number of positions with a label; the first of a row is predicted from nothing."""
        return float((batch.labels[:, 1:] != IGNORE_ID).sum())

    def tokens(self, batch: Batch) -> float:
        """Return the positions that are no padding."""
        return float((batch.document_ids > 0).sum())

    def flops_per_token(self) -> float:
        """Return the usual estimate: 2 FLOP a parameter forward, 2 for its input's gradient, 2 for its own.

        Towers count as if they saw one position per token; they are small beside the language model. Attention's
        quadratic part and recomputed activations do not count.
        """
        children = self.model_modules()
        sizes = {name: sum(parameter.numel() for parameter in child.parameters()) for name, child in children.items()}
        before_llm = any(name != "llm" and name not in self.frozen for name in children)
        return float(sum(size * (6 if name not in self.frozen else 4 if name == "llm" and before_llm else 2)
                         for name, size in sizes.items()))

    def forward(self, batch: Batch, phase: str = "main") -> LossOutput:
        """Return the summed loss and the share of labels that were the most likely token."""
        hidden = self.omni(replace(batch, modalities=batch.modalities | self.always))
        loss_sum, count, correct = chunked_cross_entropy(hidden, self.omni.head_weight, batch.labels,
                                                         int(self.option["chunk"]))
        return LossOutput(loss_sum, float(count), {"accuracy": (correct, float(count))})
