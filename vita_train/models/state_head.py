"""The state head: does a clip speak to the assistant, or is it audio not meant for it?

After Freeze-Omni (Wang et al. 2024): a linear layer on the language model's last hidden state at
the end of a clip, two states and a third that is never labelled. VITA's code has it switched off;
classes and weights are those it names.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vita_train.models.inputs import Prompt, left_padded
from vita_train.models.omni import Omni
from vita_train.recipe.model import ModelSpec
from vita_train.recipe.special_ids import AUDIO_ID, IGNORE_INDEX

#: Class of a clip that speaks to the assistant, and of one that does not.
MEANT, NOT_MEANT = 0, 1
#: What a label of each class counts in the loss.
CLASS_WEIGHTS = (1.0, 5.0, 1.0)


class StateLoss(NamedTuple):
    """Sums over labelled clips."""

    loss_sum: Tensor
    """Scalar float32, differentiable: cross-entropy times the weight of the class."""
    weight: Tensor
    """Scalar: the sum of those weights."""
    correct: Tensor
    """Scalar long: clips whose likelier state is the label."""
    clips: int


def build_state_head(spec: ModelSpec) -> nn.Linear:
    """Return the head: (hidden_size,) to three classes."""
    return nn.Linear(spec.llm.hidden_size, len(CLASS_WEIGHTS))


def state_logits(head: nn.Linear, hidden: Tensor) -> Tensor:
    """Return (clips, 2) float32 logits of the two states for hidden states (clips, D)."""
    return _logits(head, hidden)[:, :2]


def state_loss(head: nn.Linear, hidden: Tensor, states: Tensor | None) -> StateLoss:
    """Return the summed loss of the head.

    Args:
        hidden: (B, L, D) last hidden states.
        states: (B, L) class at the last position of each clip, -100 elsewhere; None where no clip
            is labelled.
    """
    if states is None:
        # A rank without a label still takes part in every collective of the head.
        nothing = _logits(head, hidden[0, :1]).sum() * 0
        return StateLoss(
            nothing, nothing.detach(), torch.zeros((), dtype=torch.long, device=hidden.device), 0
        )
    labelled = states != IGNORE_INDEX
    logits, targets = _logits(head, hidden[labelled]), states[labelled]
    weights = torch.tensor(CLASS_WEIGHTS, device=hidden.device)
    loss = F.cross_entropy(logits, targets, weight=weights, reduction="sum")
    # The third class is never a label, and never an answer
    correct = (logits[:, :2].argmax(-1) == targets).sum()
    return StateLoss(loss, weights[targets].sum(), correct, len(targets))


@torch.no_grad()
def meant_for_assistant(omni: Omni, prompt: Prompt) -> bool:
    """Say whether the last clip of a prompt speaks to the assistant; true of a prompt without
    audio."""
    clips = (prompt.input_ids == AUDIO_ID).nonzero().flatten()
    if len(clips) == 0:
        return True
    hidden = omni(left_padded([prompt], omni.head_weight.device))
    # A single prompt is not padded: indices of its ids are those of the hidden states
    end = int(clips[-1])
    return bool(state_logits(omni.state_head, hidden[0, end : end + 1]).argmax() == MEANT)


def _logits(head: nn.Linear, hidden: Tensor) -> Tensor:
    logits: Tensor = head(hidden.to(head.weight.dtype)).float()
    return logits
