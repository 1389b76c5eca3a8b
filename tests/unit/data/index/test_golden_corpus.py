"""The small corpus as it has always been: ids, labels, positions and documents of every row."""

from __future__ import annotations

import hashlib

from vita_train.data.index.corpus import Corpus
from vita_train.data.loading.collate import collate_rows

GOLDEN = "461a0272537b14cf"


def test_tokens_and_positions_of_the_small_corpus(corpus: Corpus) -> None:
    digest = hashlib.sha256()
    for name in ("hear", "look", "talk"):
        index = corpus.index(name, "train")
        batch = collate_rows(
            [[index.sample(place) for place in range(len(index))]], pad_id=0, seq_len=1024
        )
        for values in (batch.input_ids, batch.labels, batch.position_ids, batch.document_ids):
            digest.update(values.numpy().astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == GOLDEN
