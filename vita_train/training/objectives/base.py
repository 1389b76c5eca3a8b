"""What every objective is: modules, an order of batches, a collate function and a loss that sums.

An objective never divides its loss. It returns the sum over its supervised positions and their
number; the loop divides by the number in the whole global batch, so that the mathematics do not
depend on ranks or accumulation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from vita_train.data.loading.unreadable import readable
from vita_train.errors import RecipeError
from vita_train.recipe.modules import MODULES
from vita_train.recipe.objectives import OBJECTIVES
from vita_train.storage.digest import digest_of
from vita_train.training.parallel.distributed import check_same

if TYPE_CHECKING:
    from vita_train.data.index.corpus import Corpus
    from vita_train.data.loading.batch import Collate
    from vita_train.data.sampling.order import SampleOrder
    from vita_train.recipe.schema import Recipe
    from vita_train.recipe.stage import StageSpec
    from vita_train.storage.base import Store

Option = float | int | bool | str


@dataclass(frozen=True)
class Kept:
    """Where a stage keeps what it makes before it trains, for other ranks and later starts."""

    store: Store
    key: str
    """Of the stage's folder."""
    endpoint: str | None = None
    """Of the store, if it is on S3."""


@dataclass(frozen=True)
class StageContext:
    """Everything an objective may know of the stage it runs in. The same on every rank but for
    ``rank``."""

    recipe: Recipe
    stage: str
    """Canonical stage id, ``1.2``."""
    spec: StageSpec
    corpus: Corpus
    device: torch.device
    dtype: torch.dtype
    """Compute type."""
    rank: int
    world: int
    seed: int
    """The recipe's seed."""
    kept: Kept | None = None
    """Where it may keep what it makes before it trains; None where no stage is run."""


@dataclass
class LossOutput:
    """A loss that has not been divided yet.

    ``metrics`` holds (sum, count) pairs: both are added over micro-batches and ranks before one is
    divided by the other. Values may be Python numbers or detached tensors; tensors avoid a
    synchronisation with the device.
    """

    loss_sum: Tensor
    """Scalar with gradient: the sum over the supervised positions of this micro-batch."""
    count: float
    """Supervised positions in this micro-batch; equals the objective's ``weight(batch)``."""
    metrics: dict[str, tuple[Any, Any]] = field(default_factory=dict)


class Objective(nn.Module):
    """Base of the objectives.

    Children that are modules of the model carry their name of ``recipe.modules.MODULES``. Any other
    child is a throw-away head: it trains at the highest rate of the stage, is saved in checkpoints
    and never handed on. Buffers that training changes (moving averages) must be updated equally on
    every rank.

    Args:
        context: the stage.
        modules: the built and loaded modules; at least those of ``modules_used``.
    """

    keep_float32: ClassVar[tuple[str, ...]] = ()
    """Modules whose weights stay float32 while frozen, whatever the compute type (a codec's codes
    depend on it)."""
    phases: ClassVar[tuple[str, ...]] = ("main",)
    """Optimizer steps within one training step, in order. Each has its own optimizer over
    ``train_parameters``."""
    options: ClassVar[dict[str, Option]] = {}
    """Names of the stage options this objective knows, with their defaults."""

    collate: Collate
    """What makes this objective's batches; set by its ``__init__``."""

    def __init__(self, context: StageContext, modules: nn.ModuleDict) -> None:
        super().__init__()
        self.context = context
        self.frozen: tuple[str, ...] = ()
        """Children that stay in eval mode; set by ``vita_train.training.freeze``."""
        self.option = resolve_options(
            type(self), context.spec.options, where=f"stages.{context.stage}.options"
        )
        for name in self.modules_used(context.spec, context.corpus):
            self.add_module(name, modules[name])

    @classmethod
    def modules_used(cls, spec: StageSpec, corpus: Corpus) -> tuple[str, ...]:
        """Return the modules that a stage builds for this objective, in the order of ``MODULES``.

        Here: those that its declaration says it needs, and of the optional ones those that the
            stage trains.
        """
        declared = OBJECTIVES[spec.objective]
        wanted = {
            *declared.modules,
            *(name for name in declared.optional if name in spec.trainable),
        }
        return tuple(name for name in MODULES if name in wanted)

    def order(self, split: str = "train") -> Any:
        """Return the order of global batches of a split, or None if no dataset of the stage has the
        split.

        A pure function of recipe, data and step, see ``vita_train.training.batches.BatchOrder``.
        Here: single samples, ``batch.global_batch_size`` of them in a global batch.
        """
        return self.sample_order(split)

    def sample_order(
        self, split: str, bucket: Literal["none", "tokens", "frames"] = "none"
    ) -> SampleOrder | None:
        """Return the order of single samples of a split, see
        `vita_train.data.sampling.build.sample_order`."""
        from vita_train.data.sampling.build import sample_order

        context = self.context
        return sample_order(
            context.corpus, context.spec, seed=context.seed, split=split, bucket=bucket
        )

    def before_training(self, order: Any) -> None:
        """Prepare what must be known from the data before the first step (for example feature
        statistics).

        Runs at every start on every rank, before the engine wraps the objective, and must give
        every rank the same result. A checkpoint that training goes on from replaces what it did to
        modules that train.
        """

    @property
    def prepares(self) -> bool:
        """Whether there is anything that it does before training, with modules on their device."""
        return type(self).before_training is not Objective.before_training

    def first_samples(self, order: Any, batches: int) -> list[Any]:
        """Return the samples of an order's first batches, for `before_training`: the same on every
        rank, and only what can be read where the recipe lets samples be passed over.

        Raises:
            DataError: a sample cannot be read and must not be passed over, or none can be read.
            RecipeError: ranks can read different samples.
        """
        batches = min(batches, order.steps_per_epoch)
        samples = [order.load(row) for step in range(batches) for row in order.rows(step)]
        if self.context.recipe.launch.most_unreadable:
            samples = readable(self.collate, samples, seed=self.context.seed)
            check_same(
                digest_of([sample.id for sample in samples]),
                what="what can be read of the first samples",
                remedy="look whether every machine sees the same media",
            )
        return samples

    def weight(self, batch: Any) -> float:
        """Return the number of supervised positions of a micro-batch. Runs on the CPU before
        ``batch.to``."""
        raise NotImplementedError

    def tokens(self, batch: Any) -> float:
        """Return what throughput counts: positions without padding. Runs on the CPU before
        ``batch.to``."""
        return self.weight(batch)

    def largest_batch(self, rows: int) -> Any:
        """Return a micro-batch of the largest shape that the recipe's settings allow, for the
        planner; its contents say nothing. None where this objective cannot tell.

        Args:
            rows: of a rank, as `order` counts them.
        """
        return None

    def flops_per_token(self) -> float | None:
        """Return about how much the model computes forward and backward per token of ``tokens``, in
        FLOP.

        None where no such number can be given. Called before an engine has split the parameters
        over ranks.
        """
        return None

    def forward(self, batch: Any, phase: str = "main") -> LossOutput:
        """Return the loss of one micro-batch."""
        raise NotImplementedError

    def train_parameters(self, phase: str) -> Iterable[nn.Parameter]:
        """Return the parameters that ``phase`` updates; those that are frozen are left out by the
        loop."""
        return self.parameters()

    def fixed_parameters(self) -> Iterable[nn.Parameter]:
        """Return the parameters of modules that train which stay as they are all the same."""
        return ()

    def after_step(self, step: int) -> None:
        """Do what follows an optimizer step (for example restarting dead codes). Runs on every
        rank."""

    def train(self, mode: bool = True) -> Objective:
        """Set the mode of what trains; frozen children stay in eval mode whoever calls this."""
        super().train(mode)
        for name in self.frozen:
            getattr(self, name).eval()
        return self

    def model_modules(self) -> dict[str, nn.Module]:
        """Return the children that are modules of the model, in the order of ``MODULES``."""
        children = dict(self.named_children())
        return {name: children[name] for name in MODULES if name in children}


def resolve_options(
    objective: type[Objective], given: dict[str, Option], *, where: str
) -> dict[str, Option]:
    """Return the objective's options with the recipe's values filled in.

    Raises:
        RecipeError: a name the objective does not know (the nearest is named), or a value of
            another type.
    """
    resolved = dict(objective.options)
    for name, value in given.items():
        if name not in resolved:
            near = get_close_matches(name, resolved, n=1)
            known = ", ".join(sorted(resolved)) or "none"
            raise RecipeError(
                f"unknown option {name!r}",
                code="VT-RECIPE-069",
                where=where,
                remedy=f"did you mean {near[0]}?" if near else f"known options: {known}",
            )
        resolved[name] = _as_type_of(resolved[name], value, where=f"{where}.{name}")
    return resolved


def _as_type_of(default: Option, value: Option, *, where: str) -> Option:
    wanted = type(default)
    # type, not isinstance: True is an int as well, and 1 is no bool
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        raise RecipeError(
            f"expected {wanted.__name__}, got {value!r}",
            code="VT-RECIPE-070",
            where=where,
            remedy=f"give a value like {default!r}",
        )
    return value
