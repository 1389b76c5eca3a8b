"""Documents of MMC4 and pairs of COYO as interleaved records."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.errors import raises_code
from vita_train.data.adapters.base import Rejected
from vita_train.data.formats import coyo, mmc4
from vita_train.data.formats.rewrite import rewrite
from vita_train.data.sources.records import Record
from vita_train.errors import DataError, UserError


def document(*places: int, sentences: list[str]) -> dict[str, Any]:
    return {
        "text_list": sentences,
        "image_info": [
            {"image": f"{index}.jpg", "matched_text_index": place}
            for index, place in enumerate(places)
        ],
    }


def made(row: dict[str, Any]) -> dict[str, Any] | Rejected:
    (found,) = mmc4.records([("a", row)])
    if isinstance(found, dict):
        Record.model_validate(found)
    return found


def test_v20_eight_images_become_six_before_their_sentences_and_the_trailing_one_goes() -> None:
    row = document(2, 0, 4, 2, 1, 0, 3, 3, sentences=["zero", "an <image>", "two", "three", ""])
    before = deepcopy(row)
    found = made(row)
    assert found == {
        "id": "a",
        "document": "<image>\n<image>\nzero <image>\nan \\<image> <image>\n<image>\ntwo three",
        "image": ["1.jpg", "5.jpg", "4.jpg", "0.jpg", "3.jpg"],  # 2.jpg has no text after it
    }
    assert row == before
    assert made(row) == found  # a second visit finds the same


def test_v20_images_of_one_sentence_keep_the_order_of_the_file() -> None:
    found = made(document(0, 0, 0, sentences=["all"]))
    assert isinstance(found, dict)
    assert found["image"] == ["0.jpg", "1.jpg", "2.jpg"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "no document"),
        (document(3, sentences=["one"]), "no matched sentence"),
        (document(0, sentences=[" ", ""]), "no text"),
        ({"text_list": ["a"], "image_info": [{"matched_text_index": 0}]}, "no image file"),
    ],
)
def test_v20_what_is_no_document_has_a_reason(row: dict[str, Any], reason: str) -> None:
    assert made(row) == Rejected("a", reason)


def test_v21_groups_of_four_in_order_and_the_rest_is_kept() -> None:
    rows = [(str(place), {"text": f"t{place}", "image": f"{place}.jpg"}) for place in range(10)]
    rows.insert(5, ("x", {"text": " ", "image": "x.jpg"}))
    found = list(coyo.records(rows))
    groups = [one for one in found if isinstance(one, dict)]
    assert [len(group["image"]) for group in groups] == [4, 4, 2]
    assert [name for group in groups for name in group["image"]] == [f"{i}.jpg" for i in range(10)]
    assert groups[2]["document"] == ["<image>\nt8", "<image>\nt9"]
    assert [one for one in found if isinstance(one, Rejected)] == [Rejected("x", "no caption")]
    for group in groups:
        Record.model_validate(group)


def test_the_counts_of_a_rewrite_add_up(tmp_path: Path) -> None:
    rows = [{"text": "red", "image": "a.jpg"}] * 5 + [{"image": "b.jpg"}]
    source, out = tmp_path / "rows.jsonl", tmp_path / "out" / "records.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows) + "no JSON\n")
    counts = rewrite("coyo", [source], out)
    assert (counts.rows, counts.records, counts.used) == (7, 2, 5)
    assert counts.reasons == {"no caption": 1, "no image file": 1}
    rejects = (tmp_path / "out" / "records.rejects.jsonl").read_text().splitlines()
    assert [json.loads(line)["where"] for line in rejects] == ["rows.jsonl:5", "rows.jsonl:6"]
    with pytest.raises(DataError):
        rewrite("mmc4", [source], tmp_path / "none.jsonl")
    before = source.read_bytes()
    with raises_code(UserError, "VT-USE-291"):
        rewrite("coyo", [source], source)
    assert source.read_bytes() == before
