"""Preparation by shards: the same bytes however the work is dealt out, and only what changed is
done again."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.data_world import audio_file, recipe, small_world, turns, write_registry
from tests.helpers.errors import raises_code
from tests.unit.data.prepare.test_prepare import digests, features
from vita_train.data.index.corpus import Corpus
from vita_train.data.prepare import cuts, shards
from vita_train.data.prepare.exchange import PartExchange
from vita_train.data.prepare.run import prepare, prepare_share
from vita_train.data.prepare.shard_encoder import ShardEncoder
from vita_train.data.prepare.shards import cut
from vita_train.data.prepare.tokenizer import train_tokenizer
from vita_train.data.sources.texts import RowError
from vita_train.errors import DataError
from vita_train.recipe.load import dump_recipe
from vita_train.recipe.schema import Recipe
from vita_train.storage.local import LocalStore

QUIET: list[str] = []


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of some ten records of text."""
    for name, value in (("_LEAST", 6), ("_SPREAD", 6), ("_MOST", 24), ("_MEDIA_WEIGHT", 3)):
        monkeypatch.setattr(shards, name, value)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Records of each shard that is made in this process."""
    found: list[int] = []
    make = ShardEncoder.make

    def counted(self: ShardEncoder, source: Any, shard: Any, *rest: Any, **others: Any) -> Any:
        found.append(len(shard.rows))
        return make(self, source, shard, *rest, **others)

    monkeypatch.setattr(ShardEncoder, "make", counted)
    return found


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A recipe whose tokenizer does not depend on the records."""
    at = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["say red what is it? the green one\n", "user\n", "assistant\n"] * 9, 400, at)
    return recipe(tokenizer={"source": str(at), "vocab_size": 400})


def talk(number: int, **more: Any) -> dict[str, Any]:
    words = random.Random(number).choices(["red", "green", "blue", "one", "two"], k=6)
    asked, answered = " ".join(words[:3]), " ".join(words[3:])
    return {"id": f"talk-{number}", "conversations": turns(asked, answered), **more}


def world(at: Path, records: list[Any]) -> Path:
    """Write a registry with text alone beside the sets that the recipe asks for."""
    return write_registry(
        at,
        {
            "talk": {"train": records},
            "look": {"train": [talk(-1)]},
            "hear": {"train": [talk(-2)]},
        },
    )


def text_recipe(given: Recipe) -> Recipe:
    """The recipe without its recogniser, which would turn down text."""
    return given.model_copy(update={"stages": {"1.3": given.stages["1.3"]}})


def test_ends_of_shards_depend_on_the_records_near_them() -> None:
    texts = [json.dumps(talk(number)) for number in range(60_000)]
    before = [shard.content for shard in cut(enumerate(texts))]
    without = [shard.content for shard in cut(enumerate(texts[:100] + texts[101:]))]
    longer = [shard.content for shard in cut(enumerate([*texts, texts[0]]))]
    assert len(before) > 10
    assert len(set(without) - set(before)) <= 3
    assert before[:-1] == longer[: len(before) - 1]
    rows = [row for shard in cut(enumerate(texts)) for row in shard.rows]
    assert rows == list(range(60_000))


def test_texts_that_run_together_differ() -> None:
    pairs: list[list[str | RowError]] = [
        ["ab", "c"],
        ["a", "bc"],
        [RowError("a", "b")],
        [RowError("ab", "")],
    ]
    assert len({next(cut(enumerate(texts))).content for texts in pairs}) == 4


def test_media_make_shards_smaller() -> None:
    text, image = ['{"id": 1}'] * 30_000, ['{"image": "a.jpg"}'] * 30_000
    assert len(list(cut(enumerate(image)))) > 8 * len(list(cut(enumerate(text))))


def test_neither_workers_nor_shards_change_a_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, settings = small_world(tmp_path), recipe(data=features(0.9))
    (tmp_path / "pics" / "p1.jpg").write_bytes(b"no picture")
    prepare(settings, registry, tmp_path / "whole", progress=QUIET.append)
    for name, value in (("_LEAST", 1), ("_SPREAD", 2), ("_MOST", 8), ("_MEDIA_WEIGHT", 1)):
        monkeypatch.setattr(shards, name, value)
    prepare(settings, registry, tmp_path / "one", progress=QUIET.append)
    prepare(settings, registry, tmp_path / "three", workers=3, progress=QUIET.append)
    assert len(list((tmp_path / "one.parts").glob("*/*/part.json"))) > 12
    whole = digests(tmp_path / "whole")
    assert digests(tmp_path / "one") == digests(tmp_path / "three") == whole
    assert any(name.endswith("features.bin") for name in whole)


def test_only_the_shards_of_new_and_changed_records_are_made_again(
    tmp_path: Path, given: Recipe, made: list[int], small_shards: None
) -> None:
    settings, out = text_recipe(given), tmp_path / "corpus"
    records = [talk(number) for number in range(2000)]
    prepare(settings, world(tmp_path, records), out, progress=QUIET.append)
    assert sum(made) == 2002
    for change, most in (
        (records + [talk(number) for number in range(2000, 2020)], 20 + 24),
        (records[:700] + records[701:], 24 + 24),
        ([*records[:900], talk(9999), *records[901:]], 24 + 24),
    ):
        made.clear()
        prepare(settings, world(tmp_path, change), out, progress=QUIET.append)
        assert 0 < sum(made) <= most
        fresh = tmp_path / f"fresh-{len(change)}-{most}"
        prepare(settings, world(tmp_path, change), fresh, progress=QUIET.append)
        assert digests(out) == digests(fresh)
        made.clear()
        prepare(settings, world(tmp_path, records), out, progress=QUIET.append)
        assert sum(made) <= most


def test_one_per_cent_more_takes_at_most_two_per_cent_of_the_work(
    tmp_path: Path, given: Recipe, made: list[int], small_shards: None
) -> None:
    records = [talk(number) for number in range(3030)]
    settings, out = text_recipe(given), tmp_path / "corpus"
    prepare(settings, world(tmp_path, records[:3000]), out, progress=QUIET.append)
    made.clear()
    prepare(settings, world(tmp_path, records), out, progress=QUIET.append)
    assert sum(made) <= 0.02 * 3030


def test_a_corpus_added_is_all_that_is_made(tmp_path: Path, given: Recipe, made: list[int]) -> None:
    settings, out = text_recipe(given), tmp_path / "corpus"
    registry = world(tmp_path, [talk(number) for number in range(50)])
    prepare(settings, registry, out, progress=QUIET.append)
    value = json.loads(registry.read_text())
    (tmp_path / "more.json").write_text(json.dumps([talk(number) for number in range(70, 77)]))
    value["datasets"]["more"] = {"task": "qa", "train": {"records": "more.json", "roots": {}}}
    registry.write_text(json.dumps(value))
    made.clear()
    ledger = prepare(settings, registry, out, progress=QUIET.append)
    assert made == [7]
    assert ledger.records == 59


def test_settings_that_a_split_does_not_depend_on_make_nothing_again(
    tmp_path: Path, given: Recipe, made: list[int]
) -> None:
    settings, out = text_recipe(given), tmp_path / "corpus"
    registry = world(tmp_path, [talk(number) for number in range(5)])
    prepare(settings, registry, out, progress=QUIET.append)
    made.clear()
    looser = settings.data.model_copy(update={"max_reject_share": 0.5})
    prepare(settings.model_copy(update={"data": looser}), registry, out, progress=QUIET.append)
    assert made == []
    marks = settings.data.model_copy(update={"state_mode": "none"})
    prepare(settings.model_copy(update={"data": marks}), registry, out, progress=QUIET.append)
    assert sum(made) == 7


def test_records_that_are_named_by_their_place_follow_it(
    tmp_path: Path, given: Recipe, small_shards: None
) -> None:
    settings, out = text_recipe(given), tmp_path / "corpus"
    records = [talk(number) | {"id": None} for number in range(40)]
    prepare(settings, world(tmp_path, records), out, progress=QUIET.append)
    prepare(settings, world(tmp_path, records[1:]), out, progress=QUIET.append)
    index = Corpus.open(out).index("talk", "train")
    assert index.column("id") == [f"row-{number}" for number in range(39)]


def test_media_that_changed_are_decoded_again_with_the_next_change(
    tmp_path: Path, made: list[int]
) -> None:
    registry, out = small_world(tmp_path, 4), tmp_path / "corpus"
    settings = recipe(data=features(0.9))
    picture = tmp_path / "pics" / "p1.jpg"
    picture.rename(tmp_path / "elsewhere")
    assert prepare(settings, registry, out, progress=QUIET.append).rejected == 2
    (tmp_path / "elsewhere").rename(picture)
    tests = tmp_path / "hear-test.json"
    tests.write_text(tests.read_text() + "\n")  # the same records
    made.clear()
    assert prepare(settings, registry, out, progress=QUIET.append).rejected == 0
    assert sorted(made) == [3, 5]  # look, dev and train


def test_damaged_parts_are_made_again(
    tmp_path: Path, given: Recipe, made: list[int], small_shards: None
) -> None:
    settings, out = text_recipe(given), tmp_path / "corpus"
    registry = world(tmp_path, [talk(number) for number in range(100)])
    prepare(settings, registry, out, progress=QUIET.append)
    before = digests(out)
    folders = sorted((tmp_path / "corpus.parts").glob("*/*"))
    rows = bytearray((folders[0] / "rows.arrow").read_bytes())
    rows[len(rows) // 2] ^= 1
    (folders[0] / "rows.arrow").write_bytes(rows)
    (folders[1] / "rows.arrow").unlink()
    (folders[2] / "part.json").write_text("{")
    (out / "meta.json").unlink()
    made.clear()
    prepare(settings, registry, out, progress=QUIET.append)
    assert len(made) == 3
    assert digests(out) == before


def test_what_is_rejected_keeps_its_place_and_stops_with_parts_kept(
    tmp_path: Path, given: Recipe, made: list[int], small_shards: None
) -> None:
    settings, out = text_recipe(given), tmp_path / "corpus"
    records: list[Any] = [talk(number) for number in range(200)]
    records[150] = talk(150, surprise=1)
    with raises_code(DataError, "VT-DATA-015"):
        prepare(settings, world(tmp_path, records), out, progress=QUIET.append)
    listed = json.loads((tmp_path / "corpus.rejects.jsonl").read_text())
    assert (listed["row"], listed["id"]) == (150, "talk-150")
    made.clear()
    records[150] = talk(150)
    prepare(settings, world(tmp_path, records), out, progress=QUIET.append)
    assert len(made) <= 2


def lines_world(at: Path, data: bytes) -> Path:
    """The world of `world` with a record file of given bytes."""
    registry = world(at, [])
    (at / "talk-train.json").write_bytes(data)
    return registry


def as_lines(records: list[Any]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


@pytest.fixture
def cut_again(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Places of the records that are read line by line."""
    found: list[int] = []

    def noted(records: Any) -> Any:
        return cut((found.append(row) or row, text) for row, text in records)

    monkeypatch.setattr(cuts, "cut", noted)
    return found


def test_what_a_file_of_lines_begins_with_as_before_is_not_cut_again(
    tmp_path: Path, given: Recipe, made: list[int], cut_again: list[int], small_shards: None
) -> None:
    settings, out = text_recipe(given), tmp_path / "corpus"
    records = [talk(number) for number in range(500)]
    prepare(settings, lines_world(tmp_path, as_lines(records)), out, progress=QUIET.append)
    for change, kept in (
        ([*records, talk(500), talk(501)], 470),
        ([*records[:300], *records[301:]], 270),
        (records[:200], 170),
        (records[1:], 0),
    ):
        registry = lines_world(tmp_path, as_lines(change))
        cut_again.clear()
        prepare(settings, registry, out, progress=QUIET.append)
        assert len(cut_again) <= len(change) + 2 - kept
        prepare(settings, registry, tmp_path / "fresh", force=True, progress=QUIET.append)
        assert digests(out) == digests(tmp_path / "fresh")
        prepare(
            settings,
            lines_world(tmp_path, as_lines(records)),
            out,
            workers=2,
            progress=QUIET.append,
        )


@pytest.mark.parametrize(
    "otherwise",
    [
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: b"\n" + data,
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: b"[" + data.strip().replace(b"\n", b",\n") + b"]",
        lambda data: data.decode().encode("utf-16"),
        gzip.compress,
        lambda data: data.replace(b"green", b"gr\xe9en"),
    ],
)
def test_files_that_are_written_otherwise_give_the_same_corpus(
    tmp_path: Path,
    given: Recipe,
    small_shards: None,
    otherwise: Callable[[bytes], bytes],
) -> None:
    loose = text_recipe(given).data.model_copy(update={"max_reject_share": 0.9})
    settings = text_recipe(given).model_copy(update={"data": loose})
    plain = as_lines([talk(number) for number in range(100)])
    for number, data in enumerate((plain, otherwise(plain), plain)):
        registry, fresh = lines_world(tmp_path, data), tmp_path / f"fresh-{number}"
        prepare(settings, registry, tmp_path / "corpus", progress=QUIET.append)
        prepare(settings, registry, fresh, progress=QUIET.append)
        assert digests(tmp_path / "corpus") == digests(fresh)


@pytest.mark.parametrize("damage", ["{", '{"version": "another"}'])
def test_cuts_that_cannot_be_used_are_made_again(
    tmp_path: Path, given: Recipe, cut_again: list[int], small_shards: None, damage: str
) -> None:
    settings, out = text_recipe(given), tmp_path / "corpus"
    records = [talk(number) for number in range(100)]
    prepare(settings, lines_world(tmp_path, as_lines(records)), out, progress=QUIET.append)
    (tmp_path / "corpus.parts" / "cuts.json").write_text(damage)
    for read in (103, 40):
        records.append(talk(len(records)))
        cut_again.clear()
        prepare(settings, lines_world(tmp_path, as_lines(records)), out, progress=QUIET.append)
        assert len(cut_again) <= read
        assert (len(cut_again) == 103) == (read == 103)


def test_a_part_that_is_gone_is_made_from_the_bytes_that_are_known(
    tmp_path: Path, given: Recipe, made: list[int], small_shards: None
) -> None:
    settings, out = text_recipe(given), tmp_path / "corpus"
    registry = lines_world(tmp_path, as_lines([talk(number) for number in range(100)]))
    prepare(settings, registry, out, progress=QUIET.append)
    before, count = digests(out), len(made)
    for marker in (tmp_path / "corpus.parts").glob("??/*/part.json"):
        marker.unlink()
    (out / "meta.json").unlink()
    made.clear()
    prepare(settings, registry, out, progress=QUIET.append)
    assert len(made) == count
    assert digests(out) == before


_PREPARE = """
import sys
from pathlib import Path
from vita_train.data.prepare import shards
from vita_train.data.prepare.exchange import PartExchange
from vita_train.data.prepare.run import prepare, prepare_share
from vita_train.recipe.load import load_recipe
shards._LEAST, shards._SPREAD, shards._MOST = 6, 6, 24
if __name__ == "__main__":
    at = Path(sys.argv[1])
    prepare(load_recipe(str(at / "recipe.yaml")), at / "registry.json", at / "corpus")
"""


def parts_of(at: Path) -> Iterator[tuple[str, int]]:
    """Name and time of every committed part."""
    for marker in sorted((at / "corpus.parts").glob("??/*/part.json")):
        yield marker.parent.name, marker.stat().st_mtime_ns


@pytest.mark.slow  # two fresh interpreters, and real time
def test_a_killed_preparation_goes_on_with_the_shards_that_are_left(
    tmp_path: Path, given: Recipe, made: list[int], small_shards: None
) -> None:
    settings = text_recipe(given)
    registry = world(tmp_path, [talk(number) for number in range(4000)])
    (tmp_path / "recipe.yaml").write_text(dump_recipe(settings))
    process = subprocess.Popen(
        [sys.executable, "-c", _PREPARE, str(tmp_path)], env=os.environ, cwd=tmp_path
    )
    deadline = time.monotonic() + 120
    while len(before := dict(parts_of(tmp_path))) < 30 and time.monotonic() < deadline:
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = dict(parts_of(tmp_path))
    assert not (tmp_path / "corpus").exists()
    prepare(settings, registry, tmp_path / "corpus", progress=QUIET.append)
    after = dict(parts_of(tmp_path))
    assert before.items() <= after.items()
    assert len(made) == len(after) - len(before)
    made.clear()
    prepare(settings, registry, tmp_path / "fresh", progress=QUIET.append)
    assert digests(tmp_path / "corpus") == digests(tmp_path / "fresh")


@pytest.mark.usefixtures("small_shards")
def test_machines_that_share_the_shards_out_give_the_same_corpus(
    tmp_path: Path, given: Recipe, made: list[int]
) -> None:
    wanted = prepare(given, small_world(tmp_path / "alone", 30), tmp_path / "out")
    alone = sorted(made)
    made.clear()
    store = LocalStore(tmp_path / "store")
    places = [tmp_path / name for name in ("one", "two", "three")]
    for place in places:  # as they are unpacked: other folders, the same times
        small_world(place / "raw", 30)
        for path in (place / "raw").rglob("*"):
            os.utime(path, (1e9, 1e9))
    for machine, place in enumerate(places[:2]):
        handed = prepare_share(
            given, place / "raw" / "registry.json", place / "corpus",
            PartExchange(store, "parts"), machine=machine, machines=2, progress=QUIET.append,
        )  # fmt: skip
        assert 0 < handed < len(alone)
    assert sorted(made) == alone, "each shard once"
    made.clear()
    exchange = PartExchange(store, "parts")
    found = prepare(
        given, places[2] / "raw" / "registry.json", places[2] / "corpus", exchange=exchange
    )
    assert made == []
    assert [split.digest for split in found.splits] == [split.digest for split in wanted.splits]
    index = Path("look") / "train" / "index.arrow"
    assert (places[2] / "corpus" / index).read_bytes() == (tmp_path / "out" / index).read_bytes()
    # What is not needed any more goes, and media that changed are not taken from elsewhere.
    audio_file(places[2] / "raw" / "sounds" / "s3.wav", 1.0, seed=99)
    prepare(
        given, places[2] / "raw" / "registry.json", places[2] / "corpus", force=True,
        exchange=PartExchange(store, "parts"),
    )  # fmt: skip
    assert 0 < len(made) < len(alone)
    assert not list((places[2] / "corpus.parts").glob("new/*"))
