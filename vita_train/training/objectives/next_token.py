"""Next-token prediction by the omni model: every stage in which the language model takes part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from vita_train.data.loading.collate import collate_rows
from vita_train.data.prepare.tokenizer import pad_id
from vita_train.data.sampling.build import packed_order
from vita_train.errors import RecipeError
from vita_train.models.language.decoder import balance_loss, has_experts
from vita_train.models.language.loss import chunked_cross_entropy
from vita_train.models.omni import Omni
from vita_train.models.state_head import state_loss
from vita_train.recipe.modules import MODULES
from vita_train.recipe.special_ids import IGNORE_INDEX
from vita_train.training.flops import flops_per_position, row_costs
from vita_train.training.objectives.augment import Augmentation, sample_generator
from vita_train.training.objectives.base import LossOutput, Objective, Option, StageContext
from vita_train.training.objectives.full_rows import full_rows

if TYPE_CHECKING:
    from vita_train.data.index.corpus import Corpus
    from vita_train.data.index.sample import Sample
    from vita_train.data.loading.batch import Batch
    from vita_train.recipe.stage import StageSpec

_MODALITY = {
    "image": ("vision", "projector"),
    "audio": ("audio_encoder", "audio_adapter", "audio_prompt"),
}


@dataclass(frozen=True)
class RowCollator:
    """Lays the samples of each row one after the other and reads their media."""

    pad_id: int
    seq_len: int
    augmentation: Augmentation | None
    """How speech features of the train split are changed, by the clip's own generator."""

    def __call__(self, samples: Sequence[Sequence[Sample]], *, seed: int) -> Batch:
        """Return the batch of some rows."""
        batch = collate_rows(samples, pad_id=self.pad_id, seq_len=self.seq_len)
        training = all(sample.split == "train" for row in samples for sample in row)
        if self.augmentation is None or not training:
            return batch
        if batch.fbank is None or batch.fbank_lengths is None:
            return batch
        names = [
            # By clip, so that two of one sample are not changed alike
            f"{sample.id}#{clip}"
            for row in samples
            for sample in row
            for clip in range(len(sample.audios))
        ]
        for clip, (name, length) in enumerate(
            zip(names, batch.fbank_lengths.tolist(), strict=True)
        ):
            # Only real frames: the mean that masks are filled with must not see padding
            batch.fbank[clip, :length] = self.augmentation(
                batch.fbank[clip, :length], sample_generator(seed, name)
            )
        return batch


class NextTokenObjective(Objective):
    """Cross-entropy of the supervised positions of packed rows.

    Where the stage trains a state head, each label of a clip counts as one token of a reply does,
    times the weight of its class. Where a language model with experts trains, its load-balancing
    loss is added to the mean loss times ``router_aux_loss_coef``. That loss is no sum over
    positions: it is taken of each micro-batch by itself, as transformers does, and averaged over
    them by their supervised positions.
    """

    options: ClassVar[dict[str, Option]] = {
        "chunk": 0,  # most positions whose logits exist at a time; 0: by the vocabulary
        "augment": False,  # change speech features at every visit, as stage 2.1a does
        "state_weight": 1.0,  # what a label of the state head counts beside a token of a reply
    }

    omni: Omni
    state_head: nn.Linear

    def __init__(self, context: StageContext, modules: nn.ModuleDict) -> None:
        super().__init__(context, modules)
        # Hidden from torch: its children are this objective's own children under the same names.
        object.__setattr__(self, "omni", Omni(nn.ModuleDict(dict(self.named_children()))))
        self.collate = RowCollator(
            pad_id(context.corpus.tokenizer),
            context.spec.batch.seq_len,
            Augmentation() if self.option["augment"] else None,
        )
        trained = context.spec.trainable
        self.always = frozenset(
            kind for kind, names in _MODALITY.items() if any(name in trained for name in names)
        )
        """Modalities whose modules train here: they take part in every batch, with weight zero
        where it has none, so that all engines see the same parameters in use at every step."""

    @classmethod
    def modules_used(cls, spec: StageSpec, corpus: Corpus) -> tuple[str, ...]:
        """Return the language model, what the data needs and what the stage trains.

        Raises:
            RecipeError: a module trains that no record of the stage would reach.
        """
        read = {"llm"}
        indices = [corpus.index(name, "train") for name in spec.datasets]
        if any(index.tiles.any() for index in indices):
            read |= {"vision", "projector"}
        for index in indices:
            if index.frames.any():
                read |= set(index.settings.adapter.modules)
        for kind, names in _MODALITY.items():
            if idle := [name for name in names if name in spec.trainable and name not in read]:
                raise RecipeError(
                    f"trains {', '.join(idle)}, but no record of {', '.join(spec.datasets)} has "
                    f"{kind}",
                    code="VT-RECIPE-074",
                    remedy="take it out of trainable, or add a dataset that has",
                )
        wanted = read | set(super().modules_used(spec, corpus))
        return tuple(name for name in MODULES if name in wanted)

    def order(self, split: str = "train") -> Any:
        """Return the order of packed rows."""
        return packed_order(
            self.context.corpus,
            self.context.spec,
            seed=self.context.seed,
            split=split,
            costs=row_costs(self.context.recipe.model, self.model_modules(), self.frozen),
        )

    def weight(self, batch: Batch) -> float:
        """Return the number of positions with a label; the first of a row is predicted from
        nothing."""
        return float((batch.labels[:, 1:] != IGNORE_INDEX).sum())

    def tokens(self, batch: Batch) -> float:
        """Return the positions that are no padding."""
        return float((batch.document_ids > 0).sum())

    def largest_batch(self, rows: int) -> Batch:
        """Return rows that are full: as many tiles and clips as fit, and everything else
        supervised."""
        return full_rows(
            self.context.recipe,
            self.context.spec,
            rows,
            shown="vision" in self._modules,
            heard="audio_encoder" in self._modules,
        )

    def flops_per_token(self) -> float:
        """Return the estimate of `flops_per_position` for all modules together.

        Towers count as if they saw one position per token; they are small beside the language
        model.
        """
        return sum(flops_per_position(self.model_modules(), self.frozen).values())

    def forward(self, batch: Batch, phase: str = "main") -> LossOutput:
        """Return the summed loss and the share of labels that were the most likely token.

        Further metrics are ``state_loss`` and ``state_accuracy`` with a state head, and
        ``balance_loss`` with experts, which is added to the loss only while they train.
        """
        hidden, routers = self.omni.read(
            replace(batch, modalities=batch.modalities | self.always),
            routers=has_experts(self.omni.llm),
        )
        loss_sum, count, correct = chunked_cross_entropy(
            hidden, self.omni.head_weight, batch.labels, int(self.option["chunk"])
        )
        metrics: dict[str, tuple[Any, Any]] = {"accuracy": (correct, float(count))}
        if "state_head" in self.context.spec.trainable:
            state = state_loss(self.state_head, hidden, batch.states)
            loss_sum = loss_sum + float(self.option["state_weight"]) * state.loss_sum
            metrics |= {
                "state_loss": (state.loss_sum.detach(), state.weight),
                "state_accuracy": (state.correct, float(state.clips)),
            }
        if routers:
            balance = balance_loss(self.omni.llm, routers, batch.document_ids > 0)
            real = self.tokens(batch)
            metrics["balance_loss"] = (balance.detach() * real, real)
            if self.training and "llm" not in self.frozen:
                # Times the count, by which the loop's division leaves a mean over micro-batches
                loss_sum = loss_sum + balance * (self.omni.llm.config.router_aux_loss_coef * count)
        return LossOutput(loss_sum, float(count), metrics)
