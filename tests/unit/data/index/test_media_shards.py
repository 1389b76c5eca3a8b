"""Media in shards: the very bytes of the files, by range from a real server, through a cache."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.data_world import audio_file, image_file, recipe, small_world
from tests.helpers.errors import raises_code
from tests.helpers.s3_server import S3Server
from vita_train.data.index.corpus import Corpus
from vita_train.data.index.media_shards import TABLE, ShardedMedia, shards_of
from vita_train.data.index.sample import Sample
from vita_train.data.loading.batch import Batch
from vita_train.data.loading.collate import collate_rows
from vita_train.data.packing.media import pack_media
from vita_train.data.prepare.run import prepare
from vita_train.data.sampling.order import PackedOrder
from vita_train.data.sampling.pack import Budgets
from vita_train.errors import DataError
from vita_train.storage.base import FileRef, Store
from vita_train.storage.s3 import S3Store
from vita_train.training.batches import BatchLoader

QUIET: list[str] = []
SHARD = 8000


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A corpus whose media are all different, some named by several splits."""
    registry = small_world(tmp_path / "world", 12)
    prepare(recipe(), registry, tmp_path / "corpus", progress=QUIET.append)
    return tmp_path / "corpus"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VITA_TRAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "media"


def opened(corpus: Path, files: dict[str, FileRef], endpoint: str | None, cache: int) -> Corpus:
    return Corpus.open(corpus, ShardedMedia(corpus / TABLE, shards_of(files), endpoint, cache))


def without_media(corpus: Path) -> None:
    """Take the files away that the corpus was made from."""
    (corpus.parent / "world").rename(corpus.parent / "gone")


def samples(corpus: Corpus) -> list[Sample]:
    return [
        index.sample(row)
        for name, splits in sorted(corpus.datasets.items())
        for split in splits
        for index in [corpus.index(name, split)]
        for row in range(len(index))
    ]


def loaded(corpus: Corpus) -> list[np.ndarray]:
    """Everything that the media of a corpus hold."""
    found = []
    for sample in samples(corpus):
        found.append(sample.load_pixels())
        found += [sample.load_wave(clip) for clip in range(len(sample.audios))]
    return found


def test_samples_are_the_same_out_of_shards(
    prepared: Path, store: Store, s3_server: S3Server, own_cache: Path
) -> None:
    local = loaded(Corpus.open(prepared))
    files = pack_media(prepared, store, "r/prepare/media", shard_bytes=SHARD)
    assert len(files) > 3
    distinct = {
        digest for sample in samples(Corpus.open(prepared)) for digest in sample.media_digests
    }
    without_media(prepared)
    corpus = opened(prepared, files, s3_server.endpoint, 60_000)
    for _ in range(2):
        for one, other in zip(local, loaded(corpus), strict=True):
            np.testing.assert_array_equal(one, other)
    assert len(distinct) == 25
    assert sum(path.stat().st_size for path in own_cache.glob("??/*")) <= 60_000
    assert list(own_cache.glob("links/*/*")) == []


def test_packing_is_the_same_again_and_goes_on_where_it_stopped(
    prepared: Path, s3_store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pack_media(prepared, s3_store, "m", shard_bytes=SHARD)
    table = (prepared / TABLE).read_bytes()
    notes = sorted(key for key in s3_store.list("m/") if key.endswith(".json"))
    s3_store.delete(notes[2:4])
    s3_store.write("m/of-another-time.tar", b"old")
    uploaded = []
    upload = S3Store.upload

    def counted(self: S3Store, path: Path, key: str, *, move: bool = False) -> FileRef:
        uploaded.append(key)
        return upload(self, path, key, move=move)

    monkeypatch.setattr(S3Store, "upload", counted)
    assert pack_media(prepared, s3_store, "m", shard_bytes=SHARD) == first
    assert sorted(uploaded) == [note.replace(".json", ".tar") for note in notes[2:4]]
    assert (prepared / TABLE).read_bytes() == table
    assert "m/of-another-time.tar" not in s3_store.list("m/")


def test_a_file_that_changed_before_packing_is_refused(prepared: Path, store: Store) -> None:
    audio_file(prepared.parent / "world" / "sounds" / "s1.wav", 0.85, seed=99)
    with raises_code(DataError, "VT-DATA-088"):
        pack_media(prepared, store, "m")


def test_a_shard_that_was_changed_is_never_trained_on(
    prepared: Path, s3_store: S3Store, s3_server: S3Server
) -> None:
    files = pack_media(prepared, s3_store, "m")
    (ref,) = files.values()
    key = ref.uri.removeprefix(f"{s3_store.uri}/")
    data = bytearray(s3_store.read(key))
    data[len(data) // 2] ^= 1
    s3_store.write(key, bytes(data))
    without_media(prepared)
    with raises_code(DataError, "VT-DATA-086"):
        loaded(opened(prepared, files, s3_server.endpoint, 10**7))


def test_a_damaged_file_of_the_cache_is_fetched_again(
    prepared: Path, s3_store: S3Store, s3_server: S3Server, own_cache: Path
) -> None:
    corpus = opened(prepared, pack_media(prepared, s3_store, "m"), s3_server.endpoint, 10**7)
    sample = corpus.index("look", "train").sample(0)
    before = sample.load_pixels()
    (kept,) = own_cache.glob("??/*")
    data = bytearray(kept.read_bytes())
    data[-20] ^= 1
    kept.chmod(0o644)
    kept.write_bytes(data)
    np.testing.assert_array_equal(sample.load_pixels(), before)
    assert kept.read_bytes() != bytes(data)


def test_it_can_be_sent_and_forked(prepared: Path, s3_store: S3Store, s3_server: S3Server) -> None:
    corpus = opened(prepared, pack_media(prepared, s3_store, "m"), s3_server.endpoint, 10**7)
    index = corpus.index("look", "train")
    here = index.sample(0).load_pixels()
    there = pickle.loads(pickle.dumps(index)).sample(0).load_pixels()
    np.testing.assert_array_equal(here, there)


@dataclasses.dataclass
class Collator:
    """Batches of rows as next-token stages make them."""

    def __call__(self, rows: list[list[Sample]], *, seed: int) -> Batch:
        return collate_rows(rows, pad_id=0, seq_len=512)


def batches(corpus: Corpus, workers: int, ahead: int) -> list[Batch]:
    order = PackedOrder(
        {name: corpus.index(name, "train") for name in ("look", "hear")},
        {"look": 1.0, "hear": 1.0},
        2,
        Budgets(256, 16, 400),
        0,
    )
    loader = BatchLoader(Collator(), order, workers=workers, ahead=ahead)
    return [part for loaded in loader.steps(0, 8) for part in loaded.parts]


@pytest.mark.parametrize("workers", [0, 2])
def test_training_batches_are_bit_equal_to_those_of_local_files(
    prepared: Path, s3_store: S3Store, s3_server: S3Server, own_cache: Path, workers: int
) -> None:
    local = batches(Corpus.open(prepared), 0, 0)
    files = pack_media(prepared, s3_store, "m", shard_bytes=SHARD)
    without_media(prepared)
    limit = 150_000
    ranged = batches(opened(prepared, files, s3_server.endpoint, limit), workers, 3)
    for one, other in zip(local, ranged, strict=True):
        assert one.sample_ids == other.sample_ids
        for field in dataclasses.fields(Batch):
            mine, theirs = getattr(one, field.name), getattr(other, field.name)
            assert torch.equal(mine, theirs) if isinstance(mine, torch.Tensor) else mine == theirs
    assert sum(path.stat().st_size for path in own_cache.glob("??/*")) <= limit


def test_media_are_pulled_before_they_are_asked_for(
    prepared: Path, s3_store: S3Store, s3_server: S3Server, own_cache: Path
) -> None:
    corpus = opened(prepared, pack_media(prepared, s3_store, "m"), s3_server.endpoint, 10**7)
    sample = corpus.index("look", "train").sample(3)
    sample.pull()
    assert corpus._shards is not None
    corpus._shards._process()._ahead.shutdown(wait=True)
    (kept,) = own_cache.glob("??/*")
    assert kept.read_bytes() == sample.images[0].read_bytes()


def test_what_was_not_packed_is_named(
    prepared: Path, s3_store: S3Store, s3_server: S3Server
) -> None:
    files = pack_media(prepared, s3_store, "m")
    image_file(prepared.parent / "world" / "pics" / "p0.jpg", seed=77)
    prepare(
        recipe(),
        prepared.parent / "world" / "registry.json",
        prepared.parent / "other",
        progress=QUIET.append,
    )
    (prepared.parent / "other" / TABLE).write_bytes((prepared / TABLE).read_bytes())
    corpus = opened(prepared.parent / "other", files, s3_server.endpoint, 10**7)
    with raises_code(DataError, "VT-DATA-085"):
        corpus.index("look", "train").sample(0).load_pixels()
    (prepared / TABLE).write_text(json.dumps({}))
    with raises_code(DataError, "VT-DATA-087"):
        opened(prepared, files, s3_server.endpoint, 10**7)


def test_a_store_reads_stretches(store: Store, s3_server: S3Server) -> None:
    store.write("a/b", bytes(range(200)))
    assert store.read_range("a/b", 10, 5) == bytes(range(10, 15))
    with pytest.raises(Exception, match="asked for"):
        store.read_range("a/b", 190, 20)
