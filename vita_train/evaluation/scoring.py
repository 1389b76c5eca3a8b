"""Replies measured without generating them.

Greedy generation yields exactly the true reply if and only if, fed the true reply, the model's most
likely token is the next true one at every supervised position: the first position where they differ
is where generation would leave the true reply. So one forward pass over conversation and reply
decides exactness, and gives the loss as well.

The state mark that opens a reply is read apart: a reply counts as exact when everything after the
mark is, so that a wrong mark is not counted twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from vita_train.data.index.sample import Sample
from vita_train.data.loading.batch import Batch
from vita_train.evaluation.batches import reply_batches
from vita_train.models.omni import Omni
from vita_train.models.state_head import state_logits
from vita_train.recipe.special_ids import IGNORE_INDEX


@dataclass(frozen=True)
class Reply:
    """How the model stands to one true reply. A conversation has one for each of its rounds."""

    exact: bool
    """Everything after the state mark is most likely at its place."""
    mark: bool | None
    """The state mark is most likely at its place; None for a reply without one."""
    loss_sum: float
    """Nats over the supervised tokens, state mark included."""
    tokens: int


def score_replies(
    omni: Omni,
    samples: Sequence[Sample],
    *,
    marks: frozenset[tuple[int, ...]],
    device: torch.device,
) -> list[list[Reply]]:
    """Return the replies of every conversation, in the order of the samples.

    Args:
        omni: in eval mode.
        marks: tokens of each state mark; empty where replies carry none.
    """
    replies: list[list[Reply]] = [[] for _ in samples]
    for indices, batch in reply_batches(samples):
        rows, targets, losses, hits = _read(omni, batch.to(device))
        for reply in _spans(rows, targets, losses, hits, marks):
            replies[indices[reply[0]]].append(reply[1])
    return replies


def reply_losses(omni: Omni, samples: Sequence[Sample], *, device: torch.device) -> Tensor:
    """Return (samples, 2): nats over all supervised tokens of each conversation, and their
    number."""
    out = torch.zeros(len(samples), 2, dtype=torch.float64)
    for indices, batch in reply_batches(samples):
        rows, _, losses, _ = _read(omni, batch.to(device))
        where = torch.tensor(indices)[rows[:, 0]]
        out[:, 0].index_add_(0, where, losses.double())
        out[:, 1].index_add_(0, where, torch.ones(len(where), dtype=torch.float64))
    return out


@torch.no_grad()
def tell_states(omni: Omni, samples: Sequence[Sample], *, device: torch.device) -> list[bool]:
    """Return of each labelled clip whether the state head tells its state right; in no particular
    order."""
    hits: list[bool] = []
    for _, batch in reply_batches(samples):
        moved = batch.to(device)
        if moved.states is not None:
            labelled = moved.states != IGNORE_INDEX
            predicted = state_logits(omni.state_head, omni(moved)[labelled]).argmax(-1)
            hits += (predicted == moved.states[labelled]).tolist()
    return hits


@torch.no_grad()
def _read(omni: Omni, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return of each supervised position, in reading order: (row, column), target, loss, and
    whether it is hit."""
    labels = batch.labels
    hidden = omni(batch)
    supervised = labels[:, 1:] != IGNORE_INDEX
    targets = labels[:, 1:][supervised]
    losses, hits = [], []
    for states, wanted in zip(
        hidden[:, :-1][supervised].split(2048), targets.split(2048), strict=True
    ):
        logits = F.linear(states, omni.head_weight).float()
        losses.append(F.cross_entropy(logits, wanted, reduction="none"))
        hits.append(logits.argmax(-1) == wanted)
    return supervised.nonzero().cpu(), targets.cpu(), torch.cat(losses).cpu(), torch.cat(hits).cpu()


def _spans(
    indices: Tensor,
    targets: Tensor,
    losses: Tensor,
    hits: Tensor,
    marks: frozenset[tuple[int, ...]],
) -> Iterator[tuple[int, Reply]]:
    """Cut supervised positions into replies, which are stretches without a gap; yield (row,
    reply)."""
    if len(indices) == 0:
        return
    broken = (indices[1:, 0] != indices[:-1, 0]) | (indices[1:, 1] != indices[:-1, 1] + 1)
    starts = [0, *(broken.nonzero().flatten() + 1).tolist(), len(indices)]
    for start, end in pairwise(starts):
        marked = next(
            (len(mark) for mark in marks if targets[start : start + len(mark)].tolist() == [*mark]),
            0,
        )
        yield (
            int(indices[start, 0]),
            Reply(
                exact=bool(hits[start + marked : end].all()),
                mark=bool(hits[start : start + marked].all()) if marked else None,
                loss_sum=float(losses[start:end].double().sum()),
                tokens=end - start,
            ),
        )
