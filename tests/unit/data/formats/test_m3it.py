"""M3IT's 14 subsets: rows of each as records, and which files are theirs."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.helpers.errors import raises_code
from vita_train.data.adapters.base import Rejected
from vita_train.data.formats import m3it
from vita_train.data.formats.m3it import SUBSETS
from vita_train.data.formats.rewrite import rewrite
from vita_train.errors import DataError


def picture(size: tuple[int, int] = (6, 4)) -> str:
    data = io.BytesIO()
    Image.new("RGB", size, "red").save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


#: A row of each subset, in the words of its own task, with the question that must come of it.
GOLDEN: dict[str, tuple[dict[str, Any], str]] = {
    "image-paragraph-captioning": (
        {"instruction": "Write a paragraph.", "inputs": ""},
        "Write a paragraph.",
    ),
    "textcap": (
        {"instruction": "Caption, reading the text.", "inputs": ""},
        "Caption, reading the text.",
    ),
    "multi30k": ({"instruction": "Translate: ", "inputs": "A dog runs."}, "Translate: A dog runs."),
    "clevr": (
        {"instruction": "Reason.\n", "inputs": "How many cubes?"},
        "Reason.\nHow many cubes?",
    ),
    "nlvr": (
        {"instruction": "True? ", "inputs": "Both <image> show cats."},
        "True? Both  show cats.",
    ),
    "visual-mrc": ({"instruction": "Read.", "inputs": "Who wrote it?"}, "Read.Who wrote it?"),
    "docvqa": ({"instruction": "Answer.", "inputs": "What date?"}, "Answer.What date?"),
    "gqa": ({"instruction": "Q: ", "inputs": "Is it red?"}, "Q: Is it red?"),
    "ivqa": ({"instruction": "Watch. ", "inputs": "What is cut?"}, "Watch. What is cut?"),
    "ocr-vqa": ({"instruction": "Cover. ", "inputs": "Title?"}, "Cover. Title?"),
    "st-vqa": ({"instruction": "Sign. ", "inputs": "Which street?"}, "Sign. Which street?"),
    "viquae": ({"instruction": "Know. ", "inputs": "Who is it?"}, "Know. Who is it?"),
    "vqa-v2": ({"instruction": "", "inputs": "What sport?"}, "What sport?"),
}
IMAGES = {"nlvr": 2, "ivqa": 8}


@pytest.mark.parametrize("name", GOLDEN)
def test_v15_a_golden_row_of_each_subset(name: str) -> None:
    row, question = GOLDEN[name]
    number = IMAGES.get(name, 1)
    full = {**row, "outputs": "An answer.", "image_base64_str": [picture()] * number}
    (found,) = m3it.records([(name, full)])
    assert isinstance(found, dict)
    assert found["conversations"] == [
        {"from": "human", "value": "<image>\n" * number + question},
        {"from": "gpt", "value": "An answer."},
    ]
    assert [Image.open(io.BytesIO(data)).size for data in found["image"]] == [(6, 4)] * number
    (empty,) = m3it.records([(name, {**full, "outputs": " "})])
    assert empty == Rejected(name, "empty answer")


DIALOGUE = (
    "Image Descriptions: a man with a dog.\nQuestion: is he old?\nAnswer: yes\n"
    "Question: what colour is\n the dog?"
)


def test_v15_v22_a_visual_dialogue_is_turns_again() -> None:
    row = {"instruction": "Go on. ", "inputs": DIALOGUE, "outputs": "brown"}
    (found,) = m3it.records([("visual-dialog", {**row, "image_base64_str": [picture()]})])
    assert isinstance(found, dict)
    assert [turn["value"] for turn in found["conversations"]] == [
        *("<image>\nis he old?", "yes", "what colour is the dog?", "brown")
    ]
    odd = {**row, "inputs": DIALOGUE + "\nAnswer: black"}
    (refused,) = m3it.records([("a", {**odd, "image_base64_str": [picture()]})])
    assert refused == Rejected("a", "no dialogue")


def corpus(folder: Path, names: list[str]) -> Path:
    row = {"instruction": "", "inputs": "What?", "outputs": "It.", "image_base64_str": [picture()]}
    for name in names:
        path = folder / "data" / "some" / name / "train.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({**row, "inputs": name}) + "\n")
        path.with_name("validation.jsonl").write_text(json.dumps(row) + "\n")
    return folder


def test_v14_the_train_splits_of_the_14_are_taken_and_no_others(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = corpus(tmp_path / "m3it", ["coco", *reversed(SUBSETS)])
    counts = rewrite("m3it", [folder], tmp_path / "out.jsonl")
    assert (counts.rows, counts.records) == (14, 14)
    made = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    asked = [record["conversations"][0]["value"].removeprefix("<image>\n") for record in made]
    assert asked == list(SUBSETS)
    assert "coco" in capfd.readouterr().err


def test_v14_a_subset_that_is_missing_is_named(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "m3it", [name for name in SUBSETS if name not in ("clevr", "gqa")])
    with raises_code(DataError, "VT-DATA-133", "clevr, gqa"):
        rewrite("m3it", [folder], tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_v14_v15_flat_files_under_vilas_names_are_subsets_too(tmp_path: Path) -> None:
    folder = tmp_path / "m3it"
    corpus(folder, list(SUBSETS[1:]))
    row = {"instruction": "", "inputs": "What?", "outputs": "It."}
    (folder / f"captioning_{SUBSETS[0]}_train.jsonl").write_text(json.dumps(row) + "\n")
    assert rewrite("m3it", [folder], tmp_path / "out.jsonl").records == 14
