"""Codes to audio while codes are still being made, and text to audio from end to end.

Codes are decoded in chunks with context on both sides; neighbouring chunks are cross-faded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vita_train.models.speech.reading import read_text

if TYPE_CHECKING:
    from vita_train.models.codec import Codec
    from vita_train.models.speech.decoder import SpeechDecoder

MIN_CLAUSE = 5
STOPS = ".,;:!?。，；：！？、"


def stream_decode(
    codec: Codec,
    codes: Iterable[int],
    voice: Tensor,
    *,
    chunk: int = 40,
    first_chunk: int = 20,
    context: int = 10,
) -> Iterator[NDArray[np.float32]]:
    """Yield the audio of ``codes`` in pieces that join without a seam; together exactly
    ``len(codes) * hop`` samples.

    Args:
        codec: in eval mode.
        codes: codes in order, taken one by one as they come.
        voice: (num_global_tokens,) global tokens.
        chunk: codes a piece holds.
        first_chunk: codes of the first piece, smaller so that audio starts early.
        context: codes decoded before and after a piece and not kept; half a code after is
            cross-faded.
    """
    hop = codec.spec.hop_length
    fade = hop // 2
    source = iter(codes)
    known: list[int] = []
    start, size = 0, first_chunk
    tail: NDArray[np.float32] | None = None
    while True:
        # Codes behind the piece, as the decoder's convolutions look ahead
        known += islice(source, start + size + context - len(known))
        last = len(known) < start + size + context
        end = len(known) if last else start + size
        if end == start:
            break
        left = max(start - context, 0)
        window = torch.tensor([known[left : end + context]], device=voice.device)
        wave = codec.decode(window, voice[None])[0].float().cpu().numpy()
        piece = wave[(start - left) * hop : (end - left) * hop]
        if tail is not None:
            ramp = np.linspace(0.0, 1.0, len(tail), dtype=np.float32)
            # Both were decoded from the same codes, with different context: they differ little, and
            # fade over
            piece[: len(tail)] = tail * (1 - ramp) + piece[: len(tail)] * ramp
        yield piece
        if last:
            break
        tail = wave[(end - left) * hop : (end - left) * hop + fade]
        start, size = end, chunk


def spoken_text(text: str) -> str:
    """Return ``text`` as the speech decoder reads it: lower case, letters, digits, marks within
    words and stops."""
    # \w holds the underscore, which nobody says
    kept = re.sub(rf"[^\w\s'’{STOPS}-]|_", " ", text.lower())
    return re.sub(r"\s+", " ", kept).strip()


def clauses(text: str) -> list[str]:
    """Cut spoken text after stops, each part at least five characters long (a short rest joins the
    last part)."""
    return _with_words(_cut(text))


def completed_clauses(pieces: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each piece of a text that is being written with the clauses that it completed; at last
    "" and the rest.

    Together these are the clauses of the whole text, each given as soon as nothing that follows can
    change it.
    """
    text, given = "", 0
    for piece in pieces:
        text += piece
        firm = _cut(text)[:-1]  # the last part may still grow
        yield piece, _with_words(firm[given:])
        given = len(firm)
    yield "", _with_words(_cut(text)[given:])


def _cut(text: str) -> list[str]:
    parts: list[str] = []
    current = ""
    for piece in re.findall(f"[^{STOPS}]*[{STOPS}]*", spoken_text(text)):
        current += piece
        if len(current.strip()) >= MIN_CLAUSE:
            parts.append(current.strip())
            current = ""
    if current.strip():
        # Also where there is no part yet: [-1:] of an empty list is empty
        parts[-1:] = [" ".join([*parts[-1:], current.strip()])]
    return parts


def _with_words(parts: list[str]) -> list[str]:
    return [part for part in parts if re.search(r"\w", part)]


def speech_ids(text: str, encode: Callable[[str], list[int]]) -> list[int]:
    """Return the text tokens of a clause: stops dropped, a space in front so that every word has
    one spelling."""
    words = re.sub(f"[{STOPS}]", " ", spoken_text(text)).split()
    return encode(" " + " ".join(words)) if words else []


@dataclass
class Speaker:
    """What it takes to say a text with a trained model.

    Attributes:
        encode: text to ids of the language model's tokenizer, without special tokens.
        llm: the language model.
        decoder, codec: in eval mode, on the device of ``llm``.
        top_k, temperature, generator: as `SpeechDecoder.generate` takes them.
    """

    encode: Callable[[str], list[int]]
    llm: Any
    decoder: SpeechDecoder
    codec: Codec
    top_k: int = 2
    temperature: float = 1.0
    generator: torch.Generator | None = None

    def speak(self, text: str) -> Iterator[NDArray[np.float32]]:
        """Yield the audio of ``text`` at ``codec.spec.sample_rate``, clause by clause, as it is
        made."""
        for clause in clauses(text):
            yield from self._say(clause)

    def speak_along(self, pieces: Iterable[str]) -> Iterator[str | NDArray[np.float32]]:
        """Yield a text that is being written, piece by piece, and between the pieces the audio of
        what is complete.

        The audio is that of :meth:`speak` with the whole text; its first part comes with the first
        complete clause.
        """
        for piece, complete in completed_clauses(pieces):
            if piece:
                yield piece
            for clause in complete:
                yield from self._say(clause)

    def _say(self, clause: str) -> Iterator[NDArray[np.float32]]:
        ids = speech_ids(clause, self.encode)
        if ids:
            device = self.llm.get_input_embeddings().weight.device
            text = torch.tensor([ids], device=device)
            embeds, hidden = read_text(self.llm, text, states=self.decoder.has_prefix)
            codes = self.decoder.generate(
                embeds,
                text_hidden=hidden,
                top_k=self.top_k,
                temperature=self.temperature,
                generator=self.generator,
            )
            yield from stream_decode(self.codec, codes, self.decoder.voice)
