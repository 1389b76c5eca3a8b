"""What a speech decoder is given of a text, by the language model that lends it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vita_train.models.language.decoder import decode


def text_states(llm: Any, embeds: Tensor) -> Tensor:
    """Return a language model's last hidden states of texts (B, n, D), each read by itself;
    padding on the right changes none before it."""
    place = torch.arange(embeds.shape[1], device=embeds.device).expand(len(embeds), -1)
    return decode(llm, embeds, place, None).hidden


def read_text(llm: Any, decoder: Any, ids: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return what a speech decoder reads of texts (B, n), padded on the right: input embeddings
    (B, n, D), and where it has a trained prefix the last hidden states (B, n, D)."""
    with torch.no_grad():
        embeds = llm.get_input_embeddings()(ids)
        return embeds, text_states(llm, embeds) if decoder.has_prefix else None
