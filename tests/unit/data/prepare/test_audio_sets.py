"""Recordings of audio special sets: resampled and cut as the registry says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.data_world import audio_file, recipe, small_world
from tests.helpers.errors import raises_code
from vita_train.data.count.gather import count_corpus
from vita_train.data.index.corpus import Corpus
from vita_train.data.media.audio import fbank, load_wave
from vita_train.data.prepare.run import prepare
from vita_train.errors import DataError
from vita_train.recipe.special_ids import AUDIO_ID

HEAR = {
    "objective": "next_token",
    "data": {"hear": 1.0},
    "trainable": {"llm": 1e-3},
    "steps": 2,
    "batch": {"global_batch_size": 4, "seq_len": 128},
}


@pytest.mark.parametrize("stored", [False, True])
def test_long_recordings_of_a_special_set_are_cut_into_equal_chunks(
    tmp_path: Path, stored: bool
) -> None:
    registry = small_world(tmp_path, 4)
    audio_file(tmp_path / "sounds" / "s1.wav", 2.5, 8000, seed=1)
    value = json.loads(registry.read_text())
    special = {"hear": {"chunk_seconds": 1, "resampling": "soxr"}}
    registry.write_text(json.dumps({**value, "audio_sets": special}))
    spec = recipe(stages={"2.2": HEAR}, data={"audio": {"store_features": stored}})
    prepare(spec, registry, tmp_path / "out")
    index = Corpus.open(tmp_path / "out").index("hear", "train")
    short, long = index.sample(0), index.sample(1)
    assert len(short.audios) == 1
    assert long.audios == [tmp_path / "sounds" / "s1.wav"] * 3
    assert long.ids.tolist().count(AUDIO_ID) == len(long.runs) == 3
    assert np.diff(np.flatnonzero(long.ids == AUDIO_ID)).tolist() == [1, 1], "nothing between them"
    whole = load_wave(long.audios[0], 16000, resampling="soxr")
    waves = [long.load_wave(clip) for clip in range(3)]
    assert np.array_equal(np.concatenate(waves), whole)
    assert {len(wave) for wave in waves} <= {len(whole) // 3, len(whole) // 3 + 1}
    for clip, wave in enumerate(waves):
        expected = fbank(wave).numpy()
        assert long.audio_frames[clip] == len(expected)
        assert np.allclose(long.load_fbank(clip).numpy(), expected, atol=0.01)
    (counted,) = [c for c in count_corpus(Corpus.open(tmp_path / "out")) if c.name == "hear/train"]
    assert counted.audios == 4


def test_a_stage_that_needs_whole_recordings_refuses_chunks(tmp_path: Path) -> None:
    registry = small_world(tmp_path, 4)
    value = json.loads(registry.read_text())
    registry.write_text(json.dumps({**value, "audio_sets": {"hear": {"chunk_seconds": 1}}}))
    with raises_code(DataError, "VT-DATA-127", "2.1a", "hear"):
        prepare(recipe(), registry, tmp_path / "out")
