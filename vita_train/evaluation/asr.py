"""What the recogniser hears, and how many of its words and characters are wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jiwer
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from vita_train.data.prepare.ctc_vocab import CtcVocab, spoken_form, spoken_words

#: Clips the recogniser takes at a time.
CLIPS = 32


@torch.no_grad()
def recognise(
    modules: nn.ModuleDict, vocab: CtcVocab, clips: Sequence[Tensor], *, device: torch.device
) -> list[str]:
    """Return what the CTC recogniser writes for each clip: best path, repeats collapsed (Graves et
    al. 2006).

    Args:
        modules: with ``audio_encoder`` and ``ctc_head``, in eval mode.
        clips: filterbank features (T, bins) each.
    """
    encoder: Any = modules["audio_encoder"]
    texts = [""] * len(clips)
    by_length = sorted(range(len(clips)), key=lambda place: len(clips[place]))
    for start in range(0, len(by_length), CLIPS):
        indices = by_length[start : start + CLIPS]
        chosen = [clips[index] for index in indices]
        lengths = torch.tensor([len(clip) for clip in chosen], device=device)
        frames, counts = encoder(pad_sequence(chosen, batch_first=True).to(device), lengths)
        head = modules["ctc_head"]  # a later stage may hold the encoder in another type
        best = head(frames.to(next(head.parameters()).dtype)).argmax(-1).cpu()
        for index, row, count in zip(indices, best, counts.tolist(), strict=True):
            texts[index] = vocab.decode(row[:count].unique_consecutive().tolist())
    return texts


def word_error_rate(truths: Sequence[str], texts: Sequence[str]) -> float:
    """Return substitutions, insertions and deletions over the words of all truths, after
    ``spoken_words``.

    Each character of Chinese, Japanese, Thai and other scripts without spaces counts as a word, and
    each word of others, as mixed text is usually counted. Texts without a true word count with
    their inserted words only.
    """
    pairs = [
        (spoken_words(truth), spoken_words(text)) for truth, text in zip(truths, texts, strict=True)
    ]
    worded = [(" ".join(truth), " ".join(text)) for truth, text in pairs if truth]
    if not worded:
        return float("nan")
    found = jiwer.process_words([truth for truth, _ in worded], [text for _, text in worded])
    return _rate(found, sum(len(text) for truth, text in pairs if not truth))


def character_error_rate(truths: Sequence[str], texts: Sequence[str]) -> float:
    """Return the same over the characters of all truths, after ``spoken_form``; a space is a
    character."""
    pairs = [
        (spoken_form(truth), spoken_form(text)) for truth, text in zip(truths, texts, strict=True)
    ]
    written = [pair for pair in pairs if pair[0]]
    if not written:
        return float("nan")
    found = jiwer.process_characters([truth for truth, _ in written], [text for _, text in written])
    return _rate(found, sum(len(text) for truth, text in pairs if not truth))


def error_rates(truths: Sequence[str], texts: Sequence[str], prefix: str = "") -> dict[str, float]:
    """Return both rates by name, ``wer`` and ``cer``."""
    return {
        f"{prefix}wer": word_error_rate(truths, texts),
        f"{prefix}cer": character_error_rate(truths, texts),
    }


def _rate(found: jiwer.WordOutput | jiwer.CharacterOutput, extra: int) -> float:
    wrong = found.substitutions + found.deletions + found.insertions + extra
    return wrong / (found.hits + found.substitutions + found.deletions)
