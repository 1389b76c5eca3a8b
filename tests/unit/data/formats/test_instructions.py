"""M3IT's rows as records with files, and ShareGPT4V without SAM's images and repetition."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vita_train.data.adapters.base import Rejected
from vita_train.data.formats import m3it, sharegpt4v
from vita_train.data.formats.rewrite import rewrite
from vita_train.data.formats.sharegpt4v import repetition
from vita_train.data.sources.reading import Row, read_records

HONEST = (
    "A wooden table stands in the middle of a bright kitchen. On it lie three green apples, a "
    "folded newspaper and a pair of reading glasses. Behind the table a window opens to a garden, "
    "where a child in a red coat runs after a small dog. To the left, copper pans hang from hooks "
    "above an old stove; steam rises from one of them and clouds the nearest pane."
)


def picture(colour: str) -> str:
    data = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


def row(images: int, **fields: Any) -> dict[str, Any]:
    values = {"instruction": "Look. ", "inputs": "What?", "outputs": "An apple."}
    return {**values, "image_base64_str": [picture("red")] * images, **fields}


def test_v15_v22_images_become_files_and_placeholders_are_as_many(tmp_path: Path) -> None:
    rows = [row(1, instruction="<image> See "), row(0), row(8), row(9), row(1, outputs=" ")]
    rows += [row(1, image_base64_str=["no base64!"]), row(1, instruction="", inputs=None)]
    source, out = tmp_path / "rows.jsonl", tmp_path / "m3it.jsonl"
    source.write_text("".join(json.dumps(one) + "\n" for one in rows))
    counts = rewrite("m3it", [source], out)
    reasons = ("too many images", "empty answer", "not base64", "empty question")
    assert counts.reasons == dict.fromkeys(reasons, 1)
    roots = {"images": tmp_path / "m3it"}
    found = [one for one in read_records(out, roots) if isinstance(one, Row)]
    assert [len(one.images) for one in found] == [1, 0, 8]
    assert [one.record.texts for one in found] == [
        ["<image>\nSee What?", "An apple."],
        ["Look. What?", "An apple."],
        ["<image>\n" * 8 + "Look. What?", "An apple."],
    ]
    for one in found:
        for image in one.images:
            assert Image.open(image.path(roots)).size == (6, 4)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (HONEST, ""),
        (HONEST + " " + HONEST.replace("apples", "pears").replace("dog", "cat")[:60], ""),
        ("yes yes", ""),
        ("The sky is blue. " * 20, "frequent 2-gram"),
        ("\n".join([f"{HONEST[:90]}"] * 6), "repeated lines"),
        (f"{HONEST} {HONEST}", "repeated 5-grams"),
    ],
)
def test_v17_repetition_has_a_reason_and_long_honest_answers_none(text: str, reason: str) -> None:
    assert repetition(text) == reason


def test_v17_images_of_sam_and_second_ids_are_left_out() -> None:
    def conversation(name: str, image: str, answer: str = HONEST) -> dict[str, Any]:
        turns = [{"from": "human", "value": "<image>\n?"}, {"from": "gpt", "value": answer}]
        return {"id": name, "image": image, "conversations": turns}

    rows = [
        conversation("a", "coco/1.jpg"),
        conversation("sa_123", "sam/images/sa_123.jpg"),
        conversation("b", "sam/images/sa_9.jpg"),
        conversation("visa_1", "x/visa_1.jpg"),
        conversation("a", "coco/2.jpg"),
        conversation("c", "coco/3.jpg", "The sky is blue. " * 20),
        {"id": "d"},
    ]
    found = list(sharegpt4v.records((str(place), one) for place, one in enumerate(rows)))
    assert found == [
        rows[0],
        Rejected("1", "image of SAM"),
        Rejected("2", "image of SAM"),
        rows[3],
        Rejected("4", "id twice"),
        Rejected("5", "frequent 2-gram"),
        Rejected("6", "no conversation"),
    ]


def test_v15_an_empty_image_is_rejected() -> None:
    (found,) = m3it.records([("a", row(1, image_base64_str=[""]))])
    assert found == Rejected("a", "empty image")


def test_v17_several_files_become_one_without_an_id_twice(tmp_path: Path) -> None:
    def row(name: str) -> dict[str, Any]:
        turns = [{"from": "human", "value": "<image>\n?"}, {"from": "gpt", "value": HONEST}]
        return {"id": name, "image": f"coco/{name}.jpg", "conversations": turns}

    for file, names in (("captions", "abc"), ("pretrain", "cd")):
        (tmp_path / f"{file}.json").write_text(json.dumps([row(name) for name in names]))
    files = [tmp_path / "captions.json", tmp_path / "pretrain.json"]
    counts = rewrite("sharegpt4v", files, tmp_path / "one.jsonl")
    assert (counts.rows, counts.records, counts.reasons) == (5, 4, {"id twice": 1})
    lines = (tmp_path / "one.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == list("abcd")
