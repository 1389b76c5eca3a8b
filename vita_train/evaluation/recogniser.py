"""A run's own recogniser, as a judge of what a synthesiser says."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from vita_train.data.prepare.ctc_vocab import CtcVocab
from vita_train.data.speak import RATE
from vita_train.errors import UserError
from vita_train.evaluation.asr import recognise, word_error_rate
from vita_train.evaluation.tts import features_of
from vita_train.recipe.modules import MODULES
from vita_train.runs.run import Run
from vita_train.weights.newest import load_newest

_NEEDED = ("audio_encoder", "ctc_head")


def open_recogniser(uri: str) -> Callable[[Sequence[np.ndarray], Sequence[str]], list[float]]:
    """Return a function of waves (n,) at 16 kHz and true texts that gives the share of words that
    the recogniser of a run gets wrong of each.

    Raises:
        UserError: there is no such run, or none of its stages has trained a recogniser.
        CheckpointError: its weights are missing or damaged.
    """
    run = Run.open(uri)
    vocab = CtcVocab.load(run.present_corpus(media=False) / "ctc_vocab.json")
    modules = load_newest(
        run,
        ctc_vocab_size=len(vocab),
        without=[name for name in MODULES if name not in _NEEDED],
    )
    if missing := [name for name in _NEEDED if name not in modules]:
        raise UserError(
            f"this run has no recogniser: {', '.join(missing)} was never trained",
            code="VT-USE-232",
            where=uri,
            remedy="name a run whose stage of objective ctc is done",
        )

    def judge(waves: Sequence[np.ndarray], texts: Sequence[str]) -> list[float]:
        clips = [features_of(run.recipe, wave, RATE) for wave in waves]
        with torch.no_grad():
            heard = recognise(modules, vocab, clips, device=torch.device("cpu"))
        errors = [word_error_rate([text], [said]) for text, said in zip(texts, heard, strict=True)]
        return [0.0 if np.isnan(error) else error for error in errors]

    return judge
