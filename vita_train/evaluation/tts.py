"""What the codec keeps of speech, and whether what the speech decoder says can be understood."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from vita_train.data.media.audio import fbank, resampled
from vita_train.inference.speech import speech_ids
from vita_train.models.speech.reading import read_text
from vita_train.recipe.schema import Recipe

#: Sentences the speech decoder speaks at a time.
SENTENCES = 50
#: Shortest audio the recogniser is given, seconds; what is shorter is followed by silence.
SHORTEST = 0.2


@torch.no_grad()
def resynthesise(
    codec: Any,
    waves: Sequence[np.ndarray],
    *,
    device: torch.device,
) -> tuple[list[np.ndarray], list[Tensor]]:
    """Return what the codec makes of each wave (samples,), cut to its length, and the codes (T,),
    of Q codebooks (T, Q)."""
    made, codes = [], []
    for wave in waves:
        ids, voice = codec.encode(torch.from_numpy(wave)[None].to(device))
        made.append(codec.decode(ids, voice)[0, : len(wave)].float().cpu().numpy())
        codes.append(ids[0].cpu())
    return made, codes


@torch.no_grad()
def speak_sentences(
    modules: nn.ModuleDict,
    encode: Callable[[str], list[int]],
    texts: Sequence[str],
    *,
    device: torch.device,
) -> list[np.ndarray]:
    """Return each text as the model speaks it, taking the most likely code each time: (samples,) at
    the codec's rate.

    Args:
        modules: with ``llm``, ``speech_decoder`` and ``codec``, in eval mode.
        encode: text to ids of the language model's tokenizer.
    """
    llm: Any = modules["llm"]
    decoder: Any = modules["speech_decoder"]
    codec: Any = modules["codec"]
    ids = [torch.tensor(speech_ids(text, encode) or [0]) for text in texts]
    waves = [np.zeros(0, np.float32)] * len(texts)
    by_length = sorted(range(len(texts)), key=lambda place: len(ids[place]))
    for start in range(0, len(by_length), SENTENCES):
        indices = by_length[start : start + SENTENCES]
        lengths = torch.tensor([len(ids[index]) for index in indices], device=device)
        padded = pad_sequence([ids[index] for index in indices], batch_first=True).to(device)
        embeds, hidden = read_text(llm, padded, states=decoder.has_prefix)
        spoken = decoder.generate_batch(embeds, lengths, text_hidden=hidden, top_k=1)
        for index, codes in zip(indices, spoken, strict=True):
            if len(codes):
                waves[index] = (
                    codec.decode(codes[None], decoder.voice[None])[0].float().cpu().numpy()
                )
    return waves


def features_of(recipe: Recipe, wave: np.ndarray, native: int) -> Tensor:
    """Return the recogniser's features (T, bins) of a wave of ``native`` samples a second."""
    rate = recipe.data.audio.sample_rate
    wave = resampled(wave, native, rate, recipe.data.audio.resampling)
    wave = np.pad(wave, (0, max(0, int(SHORTEST * rate) - len(wave))))
    return fbank(wave, rate, recipe.model.audio_encoder.num_mel_bins)
