"""Preparing again is asked for by what shapes the corpus, and by nothing else."""

from __future__ import annotations

import pytest

from vita_train.recipe.corpus import corpus_settings
from vita_train.recipe.load import load_recipe


@pytest.mark.parametrize(
    "setting",
    [
        "model.speech_decoder.ar_layers=7",
        "model.llm.num_layers=3",
        "stages.1.2.trainable.llm=1.0e-5",
        "stages.1.2.steps=9",
        "seed=4",
        "launch.nproc=1",
        "storage.keep_last=5",
    ],
)
def test_what_the_corpus_does_not_depend_on(setting: str) -> None:
    assert corpus_settings(load_recipe("tiny", [setting])) == corpus_settings(load_recipe("tiny"))


@pytest.mark.parametrize(
    "setting",
    [
        "model.vision.image_size=128",
        "model.vision.patch_size=16",
        "model.audio_adapter.kernel=3",
        "model.audio_adapter.prompt_tokens=2",
        "model.audio_adapter={kind: cnn}",
        "model.ctc_head.vocab=char",
        "tokenizer.vocab_size=900",
        "data.video.max_frames=8",
        "stages.2.2.batch.seq_len=128",
    ],
)
def test_what_the_corpus_depends_on(setting: str) -> None:
    assert corpus_settings(load_recipe("tiny", [setting])) != corpus_settings(load_recipe("tiny"))
