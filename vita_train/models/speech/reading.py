"""What a speech decoder is given of a text, by the language model that lends it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vita_train.models.language.decoder import decode


@torch.no_grad()
def read_text(llm: Any, ids: Tensor, *, states: bool) -> tuple[Tensor, Tensor | None]:
    """Return what a speech decoder reads of texts (B, n), padded on the right: input embeddings
    (B, n, D), and for a prefix (``states``) the last hidden states (B, n, D), each text read by
    itself; padding on the right changes none before it."""
    embeds = llm.get_input_embeddings()(ids)
    if not states:
        return embeds, None
    place = torch.arange(embeds.shape[1], device=embeds.device).expand(len(embeds), -1)
    return embeds, decode(llm, embeds, place, None).hidden
