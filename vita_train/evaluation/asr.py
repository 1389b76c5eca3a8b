"""What the recogniser hears, and how many of its words are wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jiwer
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from vita_train.data.prepare.units import Units, spoken_form

#: Clips the recogniser takes at a time.
CLIPS = 32


@torch.no_grad()
def recognise(modules: nn.ModuleDict, units: Units, clips: Sequence[Tensor], *, device: torch.device) -> list[str]:
    """Return what the CTC recogniser writes for each clip: best path, repeats collapsed (Graves et al. 2006).

    Args:
        modules: with ``audio_encoder`` and ``ctc_head``, in eval mode.
        clips: filterbank features (T, bins) each.
    """
    encoder: Any = modules["audio_encoder"]
    texts = [""] * len(clips)
    by_length = sorted(range(len(clips)), key=lambda place: len(clips[place]))
    for start in range(0, len(by_length), CLIPS):
        places = by_length[start:start + CLIPS]
        chosen = [clips[place] for place in places]
        lengths = torch.tensor([len(clip) for clip in chosen], device=device)
        frames, counts = encoder(pad_sequence(chosen, batch_first=True).to(device), lengths)
        best = modules["ctc_head"](frames).argmax(-1).cpu()
        for place, row, count in zip(places, best, counts.tolist(), strict=True):
            texts[place] = units.decode(row[:count].unique_consecutive().tolist())
    return texts


def word_error_rate(truths: Sequence[str], texts: Sequence[str]) -> float:
    """Return substitutions, insertions and deletions over the words of all truths, after ``spoken_form``.

    Texts without a true word count with their inserted words only.
    """
    spoken = [(spoken_form(truth), spoken_form(text)) for truth, text in zip(truths, texts, strict=True)]
    worded = [pair for pair in spoken if pair[0]]
    if not worded:
        return float("nan")
    result = jiwer.process_words([truth for truth, _ in worded], [text for _, text in worded])
    extra = sum(len(text.split()) for truth, text in spoken if not truth)
    words = result.hits + result.substitutions + result.deletions
    return (result.substitutions + result.deletions + result.insertions + extra) / words
