"""Rows are used or rejected with a reason; nothing disappears and nothing raises but for unreadable
files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.data_world import turns
from tests.helpers.errors import raises_code
from vita_train.data.sources.reading import MediaRef, Reject, Row, read_records
from vita_train.errors import DataError

ROOTS = {"shelf_photos": Path("/photos"), "audio": Path("/sounds")}

WORKED = [
    {
        "set": "shelf_photos",
        "id": "r-000417",
        "image": "2024/shelf_17.jpg",
        "audio": ["questions/q_000417.wav"],
        "conversations": turns(
            "<image>\n<audio>", "Six blue mugs stand on the shelf.", "Which shelf is empty?", "One."
        ),
    },
    {
        "id": "r-000418",
        "inserted_id": 3,
        "audio": ["questions/q_000418.wav", "background/radio_0032.wav"],
        "conversations": turns(
            "<audio>", "Trains leave at ten.", "<audio>", "That seems to be a radio play."
        ),
    },
]
TEXT = {"id": 1, "conversations": turns("hello", "hi")}


def read(path: Path, content: Any, *, lines: bool = False) -> list[Row | Reject]:
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8", errors="surrogateescape")
    else:
        path.write_text(
            "\n".join(json.dumps(row) for row in content) if lines else json.dumps(content)
        )
    return list(read_records(path, ROOTS))


@pytest.mark.parametrize("lines", [False, True])
def test_both_layouts_give_the_same_rows(tmp_path: Path, lines: bool) -> None:
    first, second = read(tmp_path / "records", WORKED, lines=lines)
    assert isinstance(first, Row)
    assert isinstance(second, Row)
    assert (first.row, first.id, second.row, second.id) == (0, "r-000417", 1, "r-000418")
    assert first.images == (MediaRef("shelf_photos", "2024/shelf_17.jpg"),)
    assert second.audios[1].path(ROOTS) == Path("/sounds/background/radio_0032.wav")
    assert second.record.inserted_id == 3


def test_arrays_larger_than_a_chunk_are_read_whole(tmp_path: Path) -> None:
    rows = [
        {"id": number, "conversations": turns("x" * 3000 + '[]{}",\\', "é☞" * 500)}
        for number in range(700)
    ]
    (tmp_path / "records").write_text(
        json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8"
    )
    read_back = list(read_records(tmp_path / "records", ROOTS))
    assert [row.id for row in read_back] == [str(number) for number in range(700)]
    assert all(
        isinstance(row, Row) and row.record.conversations[1].value == "é☞" * 500
        for row in read_back
    )


def broken(**changes: Any) -> dict[str, Any]:
    return {**TEXT, **changes}


REJECTS: list[tuple[Any, str]] = [
    (3, "not an object"),
    ({"id": 1}, "missing key"),
    (broken(foo=1), "unknown key"),
    (
        broken(
            conversations=[
                {"from": "human", "value": "a", "extra": 1},
                {"from": "gpt", "value": "b"},
            ]
        ),
        "unknown key",
    ),
    (
        broken(conversations=[{"from": "human", "value": "a"}, {"from": "robot", "value": "b"}]),
        "unknown role",
    ),
    (
        broken(conversations=[{"from": "gpt", "value": "a"}, {"from": "human", "value": "b"}]),
        "roles do not alternate",
    ),
    (broken(conversations=turns("a", "b", "c")), "unanswered question"),
    (broken(conversations=turns("a", " \n")), "empty turn"),
    (broken(conversations=[]), "wrong value"),
    (broken(conversations="text"), "wrong value"),
    (broken(conversations=turns("<image>", "b")), "placeholder count"),
    (broken(conversations=turns("what is <audio> in HTML?", "a tag")), "placeholder count"),
    (broken(image="a.jpg", set="shelf_photos"), "placeholder count"),
    (
        broken(image=["a.jpg", "b.jpg"], set="shelf_photos", conversations=turns("<image>", "b")),
        "placeholder count",
    ),
    (broken(image="a.jpg", set="nowhere", conversations=turns("<image>", "b")), "unknown set"),
    (
        broken(image="../a.jpg", set="shelf_photos", conversations=turns("<image>", "b")),
        "path outside its root",
    ),
    (
        broken(image="/etc/a.jpg", set="shelf_photos", conversations=turns("<image>", "b")),
        "path outside its root",
    ),
    (
        broken(image="..\\a.jpg", set="shelf_photos", conversations=turns("<image>", "b")),
        "path outside its root",
    ),
    (broken(image=[], set="shelf_photos"), "wrong value"),
    (broken(inserted_id=1), "inserted_id"),
    (broken(inserted_id=5, audio="a.wav", conversations=turns("<audio>", "b")), "inserted_id"),
    (broken(inserted_id=0, audio="a.wav", conversations=turns("<audio>", "b")), "inserted_id"),
    (broken(inserted_id="1", audio="a.wav", conversations=turns("<audio>", "b")), "wrong value"),
    (broken(end_tag="no"), "wrong value"),
    (
        broken(
            end_tag=False, image="a.jpg", set="shelf_photos", conversations=turns("<image>", "b")
        ),
        "end_tag",
    ),
    (
        broken(
            image=["a.jpg", "b.jpg", "c.jpg"],
            set=["shelf_photos", "other"],
            conversations=turns("<image><image><image>", "b"),
        ),
        "wrong value",
    ),
]


@pytest.mark.parametrize(("value", "reason"), REJECTS)
def test_a_faulty_row_is_rejected_and_its_neighbours_stay(
    tmp_path: Path, value: Any, reason: str
) -> None:
    before, found, after = read(tmp_path / "records", [TEXT, value, TEXT])
    assert isinstance(before, Row)
    assert isinstance(after, Row)
    assert isinstance(found, Reject), found
    assert (found.row, found.reason) == (1, reason)
    assert found.detail


def test_a_set_may_be_left_out_where_one_root_alone_can_be_meant(tmp_path: Path) -> None:
    (tmp_path / "records").write_text(
        json.dumps([broken(image="a.jpg", conversations=turns("<image>", "b"))])
    )
    (found,) = read_records(tmp_path / "records", ROOTS)
    assert isinstance(found, Row)
    assert found.images == (MediaRef("shelf_photos", "a.jpg"),)
    for roots in ({"audio": Path("/sounds")}, {**ROOTS, "other": Path("/other")}):
        (rejected,) = read_records(tmp_path / "records", roots)
        assert isinstance(rejected, Reject)
        assert rejected.reason == "no set"


def test_every_field_of_the_format_is_accepted(tmp_path: Path) -> None:
    accepted = [
        broken(id=None),
        broken(id={"a": 1}),
        broken(end_tag=False),
        broken(set=["shelf_photos"]),
        broken(
            image=["a.jpg", "b\\c.jpg"],
            set=["shelf_photos", "shelf_photos"],
            conversations=turns("<image> and <image>", "b"),
        ),
        broken(video="a.mp4", set="shelf_photos", conversations=turns("<video>\nwhat?", "b")),
        broken(conversations=turns(r"what is \<audio> in HTML?", "<audio> is a tag")),
    ]
    rows = read(tmp_path / "records", accepted)
    assert all(isinstance(row, Row) for row in rows), rows
    assert isinstance(rows[4], Row)
    assert rows[4].images[1].name == "b/c.jpg"
    assert rows[0].id == "row-0"


def test_bad_lines_are_rejected_one_by_one(tmp_path: Path) -> None:
    good = json.dumps(TEXT)
    rows = read(
        tmp_path / "records",
        f'{good}\n{{"id": 2,\n\n{good[:-1]}, "id": 3}}\n{good}\n\udc80{good}\n'
        f'{{"id": 4, "conversations": [{{"from": "human", "value": "\udcff"}}]}}',
    )
    assert [row.reason if isinstance(row, Reject) else "" for row in rows] == [
        "",
        "not JSON",
        "duplicate key",
        "",
        "not JSON",
        "not UTF-8",
    ]


@pytest.mark.parametrize(
    "content", ["[1, 2", '[{"a": 1} {"b": 2}]', '[{"a": }]', "[1] 2", "[1,]", "["]
)
def test_a_broken_array_is_refused_as_a_whole(tmp_path: Path, content: str) -> None:
    with raises_code(DataError, "VT-DATA-025", "row"):
        read(tmp_path / "records", content)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with raises_code(DataError, "VT-DATA-024", "nowhere"):
        list(read_records(tmp_path / "nowhere.json", ROOTS))
    with pytest.raises(DataError):
        list(read_records(tmp_path, ROOTS))


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    assert read(tmp_path / "records", "") == []
    assert read(tmp_path / "records", " [ ] \n") == []


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("lines", [False, True])
def test_wider_encodings_are_read(tmp_path: Path, encoding: str, lines: bool) -> None:
    rows = [{"id": "今天", "conversations": turns("说 😀", "好")}] * 3
    text = (
        "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        if lines
        else json.dumps(rows, ensure_ascii=False, indent=1)
    )
    (tmp_path / "records").write_text(text, encoding=encoding)
    assert [row.id for row in read_records(tmp_path / "records", ROOTS)] == ["今天"] * 3


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-32-be"])
def test_a_wider_encoding_that_is_broken_is_named(tmp_path: Path, encoding: str) -> None:
    text = json.dumps(TEXT).encode(encoding)
    (tmp_path / "records").write_bytes(text + b"\xff\xdf\xff\xdf\x00")
    with raises_code(DataError, "VT-DATA-023"):
        list(read_records(tmp_path / "records", ROOTS))


@pytest.mark.parametrize(
    ("encoding", "seeming"), [("gbk", "gb18030"), ("big5", "big5"), ("shift_jis", "cp932")]
)
def test_other_encodings_are_named(tmp_path: Path, encoding: str, seeming: str) -> None:
    texts = {
        "gbk": "今天天气很好我们去公园玩",
        "big5": "今天天氣很好我們去公園玩",
        "shift_jis": "今日はとても天気がいいです",
    }
    row = {"id": 1, "conversations": turns("what?", texts[encoding])}
    text = json.dumps(row, ensure_ascii=False)
    (tmp_path / "records").write_text(text + "\n" + json.dumps(TEXT), encoding=encoding)
    first, second = read_records(tmp_path / "records", ROOTS)
    assert isinstance(first, Reject)
    assert isinstance(second, Row)
    assert f"seems to be {seeming}" in first.detail
    (tmp_path / "array").write_text(f"[{text}, {{]", encoding=encoding)
    with raises_code(DataError, "VT-DATA-025", seeming):
        list(read_records(tmp_path / "array", ROOTS))


@pytest.mark.parametrize("lines", [False, True])
def test_numbers_of_any_size_and_depth_cost_no_more_than_a_row(tmp_path: Path, lines: bool) -> None:
    huge, deep = "9" * 10_000, "[" * 900 + "]" * 900
    texts = [
        json.dumps(TEXT),
        f'{{"id": {huge}, "conversations": {json.dumps(TEXT["conversations"])}}}',
        f'{{"id": 1, "inserted_id": {huge}, "conversations": {json.dumps(TEXT["conversations"])}}}',
        f'{{"id": {deep}, "conversations": []}}',
        json.dumps(TEXT),
    ]
    (tmp_path / "records").write_text("\n".join(texts) if lines else f"[{','.join(texts)}]")
    rows = list(read_records(tmp_path / "records", ROOTS))
    assert [isinstance(row, Row) for row in rows] == [True, True, False, False, True]
    assert rows[1].id == huge


def test_elements_and_faults_of_arrays_across_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"id": f"é☞{number}\\", "conversations": turns('x]}"' * (number % 7), "y")}
        for number in range(1, 60)
    ]
    rows = [row for row in rows if row["conversations"][0]["value"]]
    for chunk in (1, 2, 3, 7, 64):
        monkeypatch.setattr("vita_train.data.sources.texts._CHUNK", chunk)
        for indent in (None, 1):
            (tmp_path / "records").write_text(
                json.dumps(rows, indent=indent, ensure_ascii=bool(indent))
            )
            found = list(read_records(tmp_path / "records", ROOTS))
            assert [row.id for row in found] == [row["id"] for row in rows]
        (tmp_path / "records").write_text(json.dumps(rows)[:-40])
        with raises_code(DataError, "VT-DATA-025", f"row {len(rows) - 1}"):
            list(read_records(tmp_path / "records", ROOTS))
