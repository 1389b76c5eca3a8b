"""Does the model use the image? Captions ranked by it, and their loss under a wrong one.

Images and captions are taken in groups of ten. Each caption is read under each image of its group,
which gives a matrix of losses. Where the image is the caption's own, it is the ordinary loss; where
it is another's, it is the loss of a model that knows how captions sound but sees nothing that
helps. A caption is ranked by how much the image lowers its loss below its mean over the group, so
that short or common captions have no advantage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from vita_train.data.index.sample import Sample
from vita_train.evaluation.scoring import reply_losses
from vita_train.models.omni import Omni

#: Captions among which an image has to find its own.
CANDIDATES = 10


def caption_losses(
    omni: Omni, samples: Sequence[Sample], *, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the losses (groups, 10 images, 10 captions) in nats, and the tokens of the captions
    (groups, 10).

    Samples that do not fill a group are left out.
    """
    groups = len(samples) // CANDIDATES
    crossed = []
    for group in range(groups):
        members = samples[group * CANDIDATES : (group + 1) * CANDIDATES]
        crossed += [with_reply_of(image, caption) for image in members for caption in members]
    losses = reply_losses(omni, crossed, device=device).view(groups, CANDIDATES, CANDIDATES, 2)
    return losses[..., 0], losses[:, 0, :, 1]


def with_reply_of(sample: Sample, other: Sample) -> Sample:
    """Return a conversation whose last reply is another's; its earlier replies are not
    supervised."""
    start, end = other.spans[-1]
    reply = other.ids[start:end]
    ids = np.concatenate([sample.prompt_ids, reply])
    tokens = len(ids) + int(sample.runs.sum()) - len(sample.runs)
    return replace(
        sample,
        ids=ids,
        spans=[(len(ids) - len(reply), len(ids))],
        tokens=tokens,
        record_id=f"{sample.record_id} with {other.record_id}",
    )


def retrieval_measures(losses: Tensor, tokens: Tensor) -> dict[str, float]:
    """Return the share of images whose own caption gains most from them, and the loss per token
    under others.

    Args:
        losses: (groups, n images, n captions); tokens: (groups, n).
    """
    gain = losses.mean(1, keepdim=True) - losses
    own = torch.arange(losses.shape[1])
    found = (gain.argmax(2) == own).double().mean()
    other = ~torch.eye(losses.shape[1], dtype=torch.bool)
    under_others = losses[:, other].sum()
    read = (tokens[:, None, :].expand_as(losses)[:, other]).sum()
    return {"retrieval": float(found), "loss_blind": float(under_others / read)}
