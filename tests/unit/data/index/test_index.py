"""What is read back is what was prepared; changed media are noticed."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.data_world import RATE, image_file, recipe, small_world
from tests.helpers.errors import raises_code
from vita_train.data.index.corpus import Corpus, Index
from vita_train.data.index.stats import corpus_stats
from vita_train.data.media.audio import fbank, load_wave
from vita_train.data.prepare.row_encoder import RowEncoder
from vita_train.data.prepare.run import prepare
from vita_train.data.sources.reading import Row, read_records
from vita_train.errors import DataError
from vita_train.recipe.special_ids import AUDIO_ID, IMAGE_ID

#: A media file is not what was prepared.
CHANGED = "VT-DATA-072"


def test_samples_are_what_examining_the_record_gives(corpus: Corpus, registry: Path) -> None:
    index = corpus.index("look", "train")
    roots = {"pics": registry.parent / "pics", "films": registry.parent / "films"}
    encoder = RowEncoder(recipe(), corpus.tokenizer, "look", roots)
    rows = [
        row
        for row in read_records(registry.parent / "look-train.json", roots)
        if isinstance(row, Row)
    ]
    for place, row in enumerate(rows):
        example, sample = encoder.encode(row), index.sample(place)
        assert (sample.ids.tolist(), sample.runs.tolist(), sample.turns) == (
            example.ids,
            example.runs,
            example.turns,
        )
        assert (sample.tokens, sample.tiles, sample.supervised) == (
            example.tokens,
            example.tiles,
            example.supervised,
        )
        ids, labels = sample.expanded()
        assert len(ids) == len(labels) == sample.tokens
        assert (ids == IMAGE_ID).sum() == sample.tiles * 4
        assert sample.id == f"look/train/{place}"
        assert sample.record_id == row.id


def test_media_come_in_the_shapes_that_were_counted(corpus: Corpus) -> None:
    for sample in (corpus.index("look", "train").sample(place) for place in range(13)):
        tiles = sample.load_tiles()
        assert tiles.shape == (sample.tiles, 3, 32, 32)
        assert tiles.dtype == torch.float32
    spoken = corpus.index("hear", "train").sample(0)
    assert spoken.load_fbank().shape == (spoken.frames, 80)
    assert (spoken.expanded()[0] == AUDIO_ID).sum() == spoken.runs[0]
    assert len(spoken.load_wave(0, 8000)) == pytest.approx(spoken.seconds * 8000, abs=2)
    assert spoken.text == "the red one"


def test_prompt_ids_end_where_the_last_reply_begins(corpus: Corpus) -> None:
    sample = corpus.index("talk", "train").sample(0)
    assert corpus.tokenizer.decode(sample.prompt_ids).endswith(
        "☜red<|im_end|>\n<|im_start|>user\nagain<|im_end|>\n<|im_start|>assistant\n"
    )


def test_stored_features_are_the_computed_ones(tmp_path: Path) -> None:
    registry = small_world(tmp_path, 3)
    made = recipe(data={"audio": {"store_features": True}, "video": {"max_frames": 4}})
    prepare(made, registry, tmp_path / "corpus", progress=[].append)
    index = Corpus.open(tmp_path / "corpus").index("hear", "train")
    for place in range(3):
        computed = fbank(load_wave(tmp_path / "sounds" / f"s{place}.wav", RATE))
        stored = index.sample(place).load_fbank()
        assert stored.shape == computed.shape
        assert (stored - computed).abs().max() < 0.02  # float16


def test_a_run_can_be_moved(tmp_path: Path) -> None:
    registry = small_world(tmp_path / "run" / "raw", 3)
    prepare(recipe(), registry, tmp_path / "run" / "corpus", progress=[].append)
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    sample = Corpus.open(tmp_path / "elsewhere" / "corpus").index("look", "train").sample(0)
    assert sample.load_pixels().shape[0] == sample.tiles


def test_changed_media_are_noticed(tmp_path: Path) -> None:
    registry = small_world(tmp_path, 3)
    prepare(recipe(), registry, tmp_path / "corpus", progress=[].append)
    index = Corpus.open(tmp_path / "corpus").index("look", "train")
    image_file(tmp_path / "pics" / "p0.jpg", 30, 30, seed=99)  # of the same size
    with raises_code(DataError, CHANGED) as caught:
        index.sample(0).load_pixels()
    assert caught.value.where == "look/train/0 (look-0)"
    assert str(tmp_path / "pics" / "p0.jpg") in caught.value.what
    assert "--force" in caught.value.remedy
    with raises_code(DataError, CHANGED):  # and not only the first time
        index.sample(0).load_pixels()
    (tmp_path / "pics" / "p1.jpg").unlink()
    with raises_code(DataError, "VT-DATA-009"):
        index.sample(1).load_pixels()


def test_a_changed_recording_and_a_changed_video_are_noticed(tmp_path: Path) -> None:
    registry = small_world(tmp_path, 3)
    prepare(recipe(), registry, tmp_path / "corpus", progress=[].append)
    corpus = Corpus.open(tmp_path / "corpus")
    spoken = corpus.index("hear", "train").sample(0)
    with spoken.audios[0].open("r+b") as file:  # one sample of half a second
        file.seek(-3, 2)
        file.write(b"\x01")
    for read in (spoken.load_fbank, spoken.load_wave):
        with raises_code(DataError, CHANGED):
            read()
    look = corpus.index("look", "train")
    shown = next(s for s in map(look.sample, range(len(look))) if s.videos)
    with shown.videos[0].open("ab") as file:
        file.write(b"\0")
    with raises_code(DataError, CHANGED):
        shown.load_pixels()


def test_only_the_first_read_of_a_process_is_checked(tmp_path: Path) -> None:
    registry = small_world(tmp_path, 3)
    prepare(recipe(), registry, tmp_path / "corpus", progress=[].append)
    index = Corpus.open(tmp_path / "corpus").index("look", "train")
    first = index.sample(0).load_pixels()
    image_file(tmp_path / "pics" / "p0.jpg", 30, 30, seed=99)
    assert not np.array_equal(index.sample(0).load_pixels(), first)
    another = pickle.loads(pickle.dumps(index))  # as another process gets it
    with raises_code(DataError, CHANGED):
        another.sample(0).load_pixels()


def test_a_corpus_of_before_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    shutil.copytree(corpus.path, tmp_path / "copy")
    meta = tmp_path / "copy" / "look" / "train" / "meta.json"
    meta.write_text(meta.read_text().replace("vita-train/index/v2", "vita-train/index/v1"))
    with raises_code(DataError, "VT-DATA-002") as caught:
        Corpus.open(tmp_path / "copy").index("look", "train")
    assert "prepare" in caught.value.remedy


def test_stored_features_are_not_held_against_recordings(tmp_path: Path) -> None:
    registry = small_world(tmp_path, 3)
    made = recipe(data={"audio": {"store_features": True}, "video": {"max_frames": 4}})
    prepare(made, registry, tmp_path / "corpus", progress=[].append)
    sample = Corpus.open(tmp_path / "corpus").index("hear", "train").sample(0)
    sample.audios[0].unlink()
    assert len(sample.load_fbank()) == sample.frames


def test_an_index_can_be_sent_to_another_process(corpus: Corpus) -> None:
    index = corpus.index("hear", "train")
    copy = pickle.loads(pickle.dumps(index))
    assert np.array_equal(copy.lengths, index.lengths)
    assert copy.sample(3).ids.tolist() == index.sample(3).ids.tolist()


def test_what_is_missing_is_named(corpus: Corpus, tmp_path: Path) -> None:
    with raises_code(DataError, "VT-DATA-007"):
        corpus.index("nothing", "train")
    with raises_code(DataError, "VT-DATA-007"):
        corpus.index("look", "test")
    with raises_code(DataError, "VT-DATA-008"):
        Corpus.open(tmp_path)
    with pytest.raises(IndexError):
        corpus.index("look", "dev").sample(3)


def test_a_damaged_index_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    shutil.copytree(corpus.path, tmp_path / "copy")
    (tmp_path / "copy" / "look" / "train" / "index.arrow").write_bytes(b"ARROW1")
    with raises_code(DataError, "VT-DATA-003"):
        Corpus.open(tmp_path / "copy").index("look", "train")


def test_statistics_add_up(corpus: Corpus) -> None:
    for stats in corpus_stats(corpus):
        index = corpus.index(stats.dataset, stats.split)
        assert stats.records == sum(stats.token_counts) == len(index)
        assert stats.tokens == index.tokens.sum()
        assert sum(stats.second_counts) == (len(index) if stats.dataset == "hear" else 0)


@pytest.mark.parametrize(
    "name", ["ctc_vocab.json", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"]
)
def test_a_changed_vocabulary_is_found(corpus: Corpus, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(corpus.path, folder)
    assert len(Corpus.open(folder).tokenizer) == len(corpus.tokenizer)
    assert Corpus.open(folder).ctc_vocab == corpus.ctc_vocab
    text = (folder / name).read_text()
    (folder / name).write_text(text + " ")  # that it can still be parsed does not make it the same
    with raises_code(DataError, "VT-DATA-005") as caught:
        _ = (
            Corpus.open(folder).ctc_vocab
            if name == "ctc_vocab.json"
            else Corpus.open(folder).tokenizer
        )
    assert caught.value.where == str(folder / name)
    assert caught.value.remedy


@pytest.mark.parametrize("table", ["index.arrow", "lengths.bin"])
def test_a_changed_byte_is_found_when_the_first_row_is_read(
    corpus: Corpus, tmp_path: Path, table: str
) -> None:
    dataset, splits = next(iter(corpus.datasets.items()))
    folder = tmp_path / "copy"
    shutil.copytree(corpus.path / dataset / splits[0], folder)
    data = bytearray((folder / table).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / table).write_bytes(data)
    index = Index(folder)  # opening does not read it
    with raises_code(DataError, "VT-DATA-005") as caught:
        index.sample(0)
    assert caught.value.where == str(folder / table)
