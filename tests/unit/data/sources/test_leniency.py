"""Records as public files have them: refused by the strict format, which names the leniency that
would take them; taken and counted where the dataset asks for it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.helpers.data_world import recipe, small_world, turns
from tests.helpers.errors import raises_code
from vita_train.data.index.corpus import Corpus
from vita_train.data.prepare.run import prepare
from vita_train.data.sources.leniency import ADAPTERS, LENIENCIES
from vita_train.data.sources.reading import (
    STRICT,
    MediaRef,
    Reject,
    Row,
    Rules,
    read_records,
)
from vita_train.data.sources.registry import load_registry
from vita_train.data.sources.texts import MAX_RECORD
from vita_train.errors import DataError

ROOTS = {"coco": Path("/coco"), "audio": Path("/sounds")}
GOOD = turns("hello", "hi")

NEEDS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"model": "gpt4v", "conversations": GOOD}, ("unknown_keys",)),
    ({"conversations": [{**GOOD[0], "weight": 1}, GOOD[1]]}, ("unknown_keys",)),
    ({"conversations": [{"from": "gpt", "value": "x"}, *GOOD]}, ("leading_gpt",)),
    ({"conversations": [{"from": "system", "value": "be kind"}, *GOOD]}, ("system_turns",)),
    ({"conversations": [*GOOD, {"from": "human", "value": "and?"}]}, ("last_question",)),
    (
        {
            "conversations": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b"},
            ]
        },
        ("role_names",),
    ),
    ({"conversations": [{"from": "human", "value": "well, "}, *GOOD]}, ("joined_questions",)),
    ({"image": [], "conversations": GOOD}, ("empty_media",)),
    ({"image": "", "set": "coco", "conversations": GOOD}, ("empty_media",)),
    ({"image": "a.jpg", "conversations": GOOD}, ("missing_placeholders",)),
    ({"conversations": turns("<image>\nwhat?", "a cat")}, ("stray_placeholders",)),
    (
        {"model": "x", "conversations": [{"from": "gpt", "value": "x"}, *GOOD]},
        ("unknown_keys", "leading_gpt"),
    ),
]


def one(tmp_path: Path, record: Any, rules: Rules = STRICT) -> Row | Reject:
    (tmp_path / "records.json").write_text(json.dumps([record]))
    (row,) = read_records(tmp_path / "records.json", ROOTS, rules)
    return row


@pytest.mark.parametrize(("record", "names"), NEEDS)
def test_strict_names_the_leniency_that_takes_it(
    tmp_path: Path, record: dict[str, Any], names: tuple[str, ...]
) -> None:
    refused = one(tmp_path, record)
    assert isinstance(refused, Reject)
    assert f"lenient: [{', '.join(names)}]" in refused.detail
    taken = one(tmp_path, record, Rules(names))
    assert isinstance(taken, Row), taken
    assert taken.lenient == names
    assert taken.record.conversations[0].role == "human"
    for missing in names:
        rest = tuple(name for name in names if name != missing)
        assert isinstance(one(tmp_path, record, Rules(rest)), Reject)


def test_a_leniency_that_is_not_needed_is_not_counted(tmp_path: Path) -> None:
    row = one(tmp_path, {"conversations": GOOD}, Rules(tuple(LENIENCIES)))
    assert isinstance(row, Row)
    assert row.lenient == ()


@pytest.mark.parametrize(
    "record",
    [
        {"id": 1},
        {"conversations": turns("a", "")},
        {"conversations": [{"from": "gpt", "value": "x"}]},
        {"conversations": [{"from": "system", "value": "x"}]},
        {"image": "../a.jpg", "conversations": turns("<image>", "b")},
        {"conversations": 3},
        3,
    ],
)
def test_what_no_leniency_takes_stays_refused_and_none_is_named(
    tmp_path: Path, record: Any
) -> None:
    for rules in (Rules(), Rules(tuple(LENIENCIES))):
        row = one(tmp_path, record, rules)
        assert isinstance(row, Reject)
        assert "lenient:" not in row.detail


def test_a_key_given_twice_is_never_a_leniency(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text(f'{{"id": 1, "id": 2, "conversations": {json.dumps(GOOD)}}}')
    (row,) = read_records(tmp_path / "r.jsonl", ROOTS, Rules(tuple(LENIENCIES)))
    assert isinstance(row, Reject)
    assert row.reason == "duplicate key"


def test_inserted_id_is_not_kept_where_turns_are_left_out(tmp_path: Path) -> None:
    record = {
        "audio": "a.wav",
        "inserted_id": 2,
        "conversations": [{"from": "gpt", "value": "x"}, *turns("<audio>", "b")],
    }
    row = one(tmp_path, record, Rules(("leading_gpt",)))
    assert isinstance(row, Row)
    assert row.record.inserted_id is None


@pytest.mark.parametrize("name", list(ADAPTERS))
def test_every_adapter_names_known_leniencies(name: str) -> None:
    assert set(ADAPTERS[name].lenient) <= set(LENIENCIES)


def test_the_default_root_counts_where_no_set_is_named(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(
        json.dumps([{"image": "a.jpg", "conversations": turns("<image>", "b")}])
    )
    roots = {**ROOTS, "gqa": Path("/gqa")}
    (row,) = read_records(tmp_path / "r.json", roots, Rules(default="gqa"))
    assert isinstance(row, Row)
    assert row.images == (MediaRef("gqa", "a.jpg"),)
    (refused,) = read_records(tmp_path / "r.json", roots)
    assert isinstance(refused, Reject)
    assert refused.reason == "no set"


@pytest.mark.parametrize("packed", ["gzip", "zstd"])
@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_compressed_files_are_read_whatever_they_are_called(
    tmp_path: Path, packed: str, lines: bool, encoding: str
) -> None:
    rows = [{"id": n, "conversations": turns("说" * 100, "好")} for n in range(3000)]
    text = "\n".join(map(json.dumps, rows)) if lines else json.dumps(rows, ensure_ascii=False)
    data = text.encode(encoding)
    path = tmp_path / "records"
    if packed == "gzip":
        path.write_bytes(
            gzip.compress(data[: len(data) // 2]) + gzip.compress(data[len(data) // 2 :])
        )
    else:
        with pa.CompressedOutputStream(str(path), "zstd") as stream:
            stream.write(data)
    assert [row.id for row in read_records(path, ROOTS)] == [str(n) for n in range(3000)]


@pytest.mark.parametrize("packed", ["gzip", "zstd"])
@pytest.mark.parametrize("harm", ["cut", "flipped"])
def test_a_damaged_compressed_file_is_one_error(tmp_path: Path, packed: str, harm: str) -> None:
    text = "\n".join(
        json.dumps({"id": n, "conversations": turns(f"{n * 7919 % 10007}", "x")})
        for n in range(5000)
    ).encode()
    path = tmp_path / "records.jsonl"
    if packed == "gzip":
        path.write_bytes(gzip.compress(text))
    else:
        with pa.CompressedOutputStream(str(path), "zstd") as stream:
            stream.write(text)
    data = bytearray(path.read_bytes())
    if harm == "cut":
        data = data[: len(data) // 2]
    else:
        data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        list(read_records(path, ROOTS))
    assert caught.value.where == str(path)


def test_a_bomb_of_one_line_costs_that_line(tmp_path: Path) -> None:
    path = tmp_path / "bomb.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(b'{"id": "')
        for _ in range(MAX_RECORD // (1 << 20) + 2):
            stream.write(b"a" * (1 << 20))
        stream.write(b'"}\n' + json.dumps({"id": 2, "conversations": GOOD}).encode() + b"\n")
    first, second = read_records(path, ROOTS)
    assert isinstance(first, Reject)
    assert first.reason == "too large"
    assert isinstance(second, Row)


def edited(registry: Path, **changes: Any) -> Path:
    value = json.loads(registry.read_text())
    for dataset, change in changes.items():
        value["datasets"][dataset] |= change
    registry.write_text(json.dumps(value))
    return registry


def test_preparation_counts_leniencies_in_its_ledger(tmp_path: Path) -> None:
    registry = small_world(tmp_path, 6)
    path = tmp_path / "talk-train.json"
    rows = json.loads(path.read_text())
    rows[0]["model"] = "gpt"
    rows[1] |= {"model": "gpt"}
    rows[1]["conversations"].insert(0, {"from": "system", "value": "hi"})
    path.write_text(json.dumps(rows))
    with raises_code(DataError, "VT-DATA-015", "lenient"):
        prepare(recipe(), registry, tmp_path / "strict")
    edited(registry, talk={"adapter": "llava"})
    lines: list[str] = []
    ledger = prepare(recipe(), registry, tmp_path / "out", progress=lines.append)
    talk = next(split for split in ledger.splits if split.dataset == "talk")
    assert (talk.used, talk.rejected) == (6, 0)
    assert talk.lenient == {"system_turns": 1, "unknown_keys": 2}
    assert any("lenient: system_turns 1, unknown_keys 2" in line for line in lines)


@pytest.mark.parametrize(
    "change",
    [
        {"adapter": "llva"},
        {"lenient": ["anything"]},
        {"ratio": 0},
        {"ratio": -1},
        {"split_off": {"parts": {}}},
        {"split_off": {"parts": {"dev": 0}}},
        {"split_off": {"parts": {"dev": 1.0}}},
        {"split_off": {"parts": {"dev": 0.6, "test": 0.5}}},
        {"split_off": {"parts": {"train": 0.5}}},
        {"split_off": {"parts": {"dev": True}}},
        {"split_off": {"parts": {"dev": 0.1}, "by": "speaker", "pattern": "("}},
        {"split_off": {"parts": {"dev": 0.1}, "by": "speaker", "pattern": "abc"}},
        {"split_off": {"parts": {"dev": 0.1}, "by": "face"}},
        {"train": {"records": "", "roots": {}}},
        {"train": {"records": "a.json", "roots": {"pics": " "}}},
        {"train": {"records": "a.json", "roots": {"pics": "x"}, "default": "other"}},
    ],
)
def test_declarations_that_are_none(tmp_path: Path, change: dict[str, Any]) -> None:
    registry = edited(small_world(tmp_path, 2), talk=change)
    with pytest.raises(DataError) as caught:
        load_registry(registry)
    assert "datasets.talk" in caught.value.what


def test_a_registry_is_written_as_it_was_read(tmp_path: Path) -> None:
    value = {
        "format": "vita-train/registry/v1",
        "datasets": {
            "a": {
                "task": "qa",
                "adapter": "llava",
                "lenient": ["role_names"],
                "ratio": 0.5,
                "split_off": {"parts": {"dev": 0.1, "test": 5}, "by": "image"},
                "train": {"records": "a.json", "roots": {"x": "x"}, "default": "x"},
            }
        },
        "groups": {"g": ["a", "a"]},
        "no_tile_sets": ["x"],
        "audio_sets": {"a": {"max_seconds": 30}},
    }
    (tmp_path / "r.json").write_text(json.dumps(value))
    registry = load_registry(tmp_path / "r.json")
    registry.save(tmp_path / "again.json")
    assert load_registry(tmp_path / "again.json") == registry
    assert registry.members("g") == {"a": 2.0}
    assert registry.datasets["a"].split_names == ["train", "dev", "test"]


def test_the_ratio_times_the_weight_is_the_share(tmp_path: Path) -> None:
    from vita_train.data.sampling.build import packed_order

    registry = edited(small_world(tmp_path, 8), look={"ratio": 0.25})
    lines: list[str] = []
    spec = recipe()
    prepare(spec, registry, tmp_path / "out", progress=lines.append)
    assert any("look 0.25 times (1 x 0.25), talk 0.5 times (0.5 x 1)" in line for line in lines)
    corpus = Corpus.open(tmp_path / "out")
    assert corpus.ratios == {"look": 0.25}
    order = packed_order(corpus, spec.stages["1.3"], seed=0)
    plain = Corpus.open(tmp_path / "out")
    plain.ratios = {}
    whole = packed_order(plain, spec.stages["1.3"], seed=0)
    assert order is not None
    assert whole is not None
    assert order.mix.epoch_size(0) == 3 + 4  # a quarter of 9, half of 8
    assert whole.mix.epoch_size(0) == 9 + 4


def test_sets_of_the_registry_are_never_tiled(tmp_path: Path) -> None:
    registry = small_world(tmp_path, 4)
    value = json.loads(registry.read_text())
    registry.write_text(json.dumps({**value, "no_tile_sets": ["pics"]}))
    prepare(recipe(), registry, tmp_path / "out")
    samples = Corpus.open(tmp_path / "out").index("look", "train")
    assert [samples.sample(number).tiles for number in range(4)] == [1, 1, 1, 1]
    assert samples.sample(0).load_pixels().shape[0] == 1


def test_an_audio_special_set_has_limits_of_its_own(tmp_path: Path) -> None:
    registry = small_world(tmp_path, 4)
    value = json.loads(registry.read_text())
    registry.write_text(json.dumps({**value, "audio_sets": {"hear": {"max_seconds": 0.86}}}))
    spec = recipe(data={"max_reject_share": 1.0, "image": {"max_tiles": 4}})
    ledger = prepare(spec, registry, tmp_path / "out")
    hear = next(
        split for split in ledger.splits if (split.dataset, split.split) == ("hear", "train")
    )
    assert hear.reasons == {"audio too long": 2}


@pytest.mark.parametrize(
    ("adapter", "expected"),
    [
        ("aurora", ["<image> <image>\nwhat is shown and where", "a cat", "and now?", "a dog"]),
        ("aurora_captions", ["<image> <image>", "a cat", "and now?", "a dog"]),
    ],
)
def test_a6_auroracaps_mapping_of_a_row(tmp_path: Path, adapter: str, expected: list[str]) -> None:
    said = [
        ("gpt", "hello"),
        ("human", "what is<image> shown "),
        ("human", "<image>and where"),
        ("gpt", "a cat"),
        ("human", "and now?"),
        ("gpt", "a dog"),
        ("human", "thanks"),
    ]
    record = {
        "image": ["a.jpg", "b.jpg"],
        "source": "unknown to the format",
        "conversations": [{"from": role, "value": text} for role, text in said],
    }
    row = one(tmp_path, record, Rules(ADAPTERS[adapter].lenient))
    assert isinstance(row, Row), row
    assert [turn.value for turn in row.record.conversations] == expected
    assert {"leading_gpt", "last_question", "joined_questions"} < set(row.lenient)
    record["conversations"][1]["from"] = "system"
    assert isinstance(one(tmp_path, record, Rules(ADAPTERS[adapter].lenient)), Reject)
