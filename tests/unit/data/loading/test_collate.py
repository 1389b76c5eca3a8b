"""Packed rows: documents are told apart, media stand in reading order, padding is not
supervised."""

from __future__ import annotations

import torch

from vita_train.data.index.corpus import Corpus
from vita_train.data.loading.collate import collate_rows
from vita_train.recipe.special_ids import AUDIO_ID, IGNORE_INDEX, IMAGE_ID


def test_rows_hold_their_documents_one_behind_the_other(corpus: Corpus) -> None:
    look, talk, hear = (corpus.index(name, "train") for name in ("look", "talk", "hear"))
    rows = [[look.sample(0), talk.sample(1), hear.sample(2)], [look.sample(12)]]
    batch = collate_rows(rows, pad_id=0, seq_len=128)
    longest = sum(sample.tokens for sample in rows[0])
    assert batch.input_ids.shape == (2, min(128, -(-longest // 32) * 32))
    for place, row in enumerate(rows):
        start = 0
        for number, sample in enumerate(row, 1):
            ids, labels = sample.expanded()
            here = slice(start, start + sample.tokens)
            assert batch.input_ids[place, here].tolist() == ids.tolist()
            assert batch.labels[place, here].tolist() == labels.tolist()
            assert batch.position_ids[place, here].tolist() == list(range(sample.tokens))
            assert set(batch.document_ids[place, here].tolist()) == {number}
            start += sample.tokens
        assert batch.document_ids[place, start:].sum() == 0
        assert (batch.labels[place, start:] == IGNORE_INDEX).all()
        assert (batch.input_ids[place, start:] == 0).all()
    assert batch.sample_ids == ["look/train/0", "talk/train/1", "hear/train/2", "look/train/12"]
    assert batch.modalities == {"image", "audio"}


def test_media_follow_the_placeholders(corpus: Corpus) -> None:
    look, hear = corpus.index("look", "train"), corpus.index("hear", "train")
    rows = [[hear.sample(1), look.sample(1)], [look.sample(2), hear.sample(0)]]
    batch = collate_rows(rows, pad_id=0, seq_len=128)
    assert batch.tiles is not None
    assert batch.fbank is not None
    assert batch.fbank_lengths is not None
    assert batch.tiles.dtype == torch.uint8
    assert (batch.input_ids == IMAGE_ID).sum() == len(batch.tiles) * 4
    expected = [look.sample(1).load_pixels(), look.sample(2).load_pixels()]
    assert torch.equal(
        batch.tiles[: len(expected[0])].permute(0, 2, 3, 1), torch.from_numpy(expected[0])
    )
    assert batch.fbank_lengths.tolist() == [hear.sample(1).frames, hear.sample(0).frames]
    assert torch.equal(batch.fbank[1, : batch.fbank_lengths[1]], hear.sample(0).load_fbank())
    assert (batch.fbank[1, batch.fbank_lengths[1] :] == 0).all()
    assert (batch.input_ids == AUDIO_ID).sum() == sum(
        hear.sample(place).runs.sum() for place in (0, 1)
    )


def test_text_alone_has_no_media(corpus: Corpus) -> None:
    batch = collate_rows([[corpus.index("talk", "train").sample(0)]], pad_id=0, seq_len=40)
    assert (batch.tiles, batch.fbank, batch.fbank_lengths) == (None, None, None)
    assert batch.modalities == frozenset()
    assert batch.input_ids.shape[1] <= 40
    moved = batch.to("meta")
    assert moved.input_ids.device.type == "meta"
    assert moved.sample_ids == batch.sample_ids
