"""V24: a golden row of each further converter, and what each leaves out."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.helpers.errors import raises_code
from vita_train.data.formats import FORMATS
from vita_train.data.formats.rewrite import rewrite
from vita_train.data.sources.reading import Reject, read_records
from vita_train.errors import DataError

BOX = re.compile(r"\[(\d{3}),(\d{3}),(\d{3}),(\d{3})\]")


def picture(size: tuple[int, int] = (200, 100)) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, "red").save(data, "PNG")
    return data.getvalue()


def save(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(value, bytes):
        path.write_bytes(value)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in value))
    else:
        path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def made(name: str, path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the records that come of a source, and the reasons of its rejects."""
    out = path.parent / f"{name}-out.jsonl"
    counts = rewrite(name, [path], out)
    assert counts.rows == counts.records + counts.reasons.total()
    for row in read_records(out, {"images": path.parent}):
        assert not isinstance(row, Reject), row
    records = [json.loads(line) for line in out.read_text().split("\n") if line]
    rejects = out.with_suffix(".rejects.jsonl").read_text().splitlines()
    return records, [json.loads(line)["reason"] for line in rejects]


def values(record: dict[str, Any]) -> list[str]:
    return [turn["value"] for turn in record["conversations"]]


#: Corners of words in an image of 200 x 100, and their boxes.
WORDS = [
    ("SHOP", [[20, 10], [120, 12], [118, 50], [22, 48]], "[100,100,600,500]"),
    ("OPEN", [[-5, 0], [200, 0], [200, 100], [-5, 100]], "[000,000,999,999]"),
]


def check_boxes(record: dict[str, Any]) -> None:
    """Every word is asked for once, with its own box, whose edges are in order."""
    texts = values(record)
    assert texts[0].startswith("<image>\n")
    assert sum(text.count("<image>") for text in texts) == 1
    for word, _, box in WORDS:
        pairs = list(zip(texts[::2], texts[1::2], strict=True))
        assert [pair for pair in pairs if word in "".join(pair) and box in "".join(pair)]
    for left, upper, right, lower in BOX.findall(" ".join(texts)):
        assert left < right
        assert upper < lower


@pytest.mark.parametrize(
    ("name", "labels", "images"),
    [
        ("art", "train_labels.json", "train_images"),
        ("lsvt", "train_full_labels.json", "train_full_images"),
    ],
)
def test_v24_words_with_boxes(name: str, labels: str, images: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    words = [{"transcription": w, "points": p, "illegibility": False} for w, p, _ in WORDS]
    bad = {"transcription": "###", "points": WORDS[0][1], "illegibility": True}
    save(folder / images / "gt_1.jpg", picture())
    save(folder / labels, {"gt_1": [*words, bad], "gt_2": words, "gt_3": [bad]})
    records, reasons = made(name, folder)
    assert reasons == ["no image file", "nothing legible"]
    assert [record["image"] for record in records] == [[f"{images}/gt_1.jpg"]]
    check_boxes(records[0])
    assert made(name, folder)[0] == records


def test_v24_rects_has_a_file_an_image(tmp_path: Path) -> None:
    folder = tmp_path / "ReCTS"
    chars = [
        {"ignore": 0, "transcription": w, "points": [x for point in p for x in point]}
        for w, p, _ in WORDS
    ]
    save(folder / "img" / "train_1.jpg", picture())
    save(folder / "img" / "train_2.jpg", picture())
    save(folder / "gt" / "train_1.json", {"chars": [*chars, {**chars[0], "ignore": 1}]})
    save(folder / "gt" / "train_2.json", "{broken")
    records, reasons = made("rects", folder)
    assert reasons == ["no annotation"]
    (record,) = records
    check_boxes(record)
    assert len(record["conversations"]) == 4


def test_v24_mtwi_asks_for_words_or_for_all_of_them(tmp_path: Path) -> None:
    folder = tmp_path / "mtwi"
    for number in range(12):
        save(folder / "image_train" / f"{number}.jpg", picture())
        lines = [",".join(str(x) for point in p for x in point) + f",{w}" for w, p, _ in WORDS]
        save(folder / "txt_train" / f"{number}.txt", "\n".join([*lines, "1,2,3,4,###", "x,y,z"]))
    save(folder / "image_train" / "alone.jpg", picture())
    records, reasons = made("mtwi", folder)
    assert reasons == ["nothing legible"]
    assert len(records) == 12
    kinds = set()
    for record in records:
        texts = values(record)
        if len(texts) == 4:
            check_boxes(record)
            kinds.add("words")
        elif BOX.search(texts[1]):
            assert texts[1] == "\n".join(f"{box} {word}" for word, _, box in WORDS)
            kinds.add("boxes")
        else:
            assert texts[1] == "SHOP OPEN"
            kinds.add("all")
    assert kinds == {"words", "boxes", "all"}


def test_v24_mtwi_keeps_texts_with_commas_and_separators(tmp_path: Path) -> None:
    folder, text = tmp_path / "mtwi", "10,10,20,10,20,20,10,20,"
    save(folder / "image_train" / "one.jpg", picture())
    save(folder / "txt_train" / "one.txt", f"{text}3,50 EUR\n{text}left\u2028right")
    (record,), _ = made("mtwi", folder)
    told = " ".join(values(record))
    assert "3,50 EUR" in told
    assert "left\u2028right" in told


def test_v24_sroie_and_poie_ask_for_fields(tmp_path: Path) -> None:
    folder = tmp_path / "sroie"
    save(folder / "r1.jpg", picture())
    save(folder / "r1.txt", {"company": "ACME", "total": "9.00", "other": "x"})
    save(folder / "r2.jpg", picture())
    records, reasons = made("sroie", folder)
    assert reasons == ["no question"]
    (record,) = records
    assert record["image"] == ["r1.jpg"]
    assert values(record)[1::2] == ["ACME", "9.00"]
    rows = [
        {"file_name": "image_files/a.jpg", "entity_dict": {"SS": "30g", "TF-D": "5%", "XX": "1"}},
        {"file_name": "image_files/b.jpg"},
    ]
    records, reasons = made("poie", save(tmp_path / "poie" / "train.jsonl", rows))
    assert reasons == ["no annotation"]
    assert values(records[0])[1::2] == ["30g", "5%"]
    assert "daily value" in values(records[0])[2]
    assert records[0]["id"] == "a"


def test_v24_estvqa_keeps_what_is_english(tmp_path: Path) -> None:
    def note(question: str, answer: str) -> dict[str, str]:
        return {"question": question, "answer": answer}

    rows = [
        {
            "id": 1,
            "image": "1.jpg",
            "annotation": [note("What is sold?", "Tea"), note("Cost?", "9")],
        },
        {"id": 2, "image": "2.jpg", "annotation": [note("\u8fd9\u662f\u4ec0\u4e48?", "Tea")]},
        {"id": 3, "image": "3.jpg", "annotation": [note("What is it?", "\u8336")]},
        {"id": 4, "image": "4.jpg", "annotation": [note("How much is it?", "9.50")]},
        {"id": 5, "image": "5.jpg"},
    ]
    records, reasons = made("estvqa", save(tmp_path / "estvqa.json", rows))
    assert [record["image"] for record in records] == [["1.jpg"], ["4.jpg"]]
    assert values(records[0]) == ["<image>\nWhat is sold?", "Tea", "Cost?", "9"]
    assert reasons == ["not English", "not English", "no annotation"]


def test_v24_kvqa_viquae_metamathqa_docreason(tmp_path: Path) -> None:
    entries = {
        "1": {"imgPath": "a.jpg", "Questions": ["Who?", "How old?"], "Answers": ["Ada", 36]},
        "2": {"imgPath": "b.jpg", "Questions": ["Who?"], "Answers": []},
    }
    records, reasons = made("kvqa", save(tmp_path / "kvqa" / "dataset.json", entries).parent)
    assert values(records[0]) == ["<image>\nWho?", "Ada", "How old?", "36"]
    assert reasons == ["answers do not match questions"]
    rows = [{"query": "2+2?", "response": "4", "type": "GSM"}, {"query": "3+3?", "response": ""}]
    records, reasons = made("metamathqa", save(tmp_path / "math.json", rows))
    assert values(records[0]) == ["2+2?", "4"]
    assert "image" not in records[0]
    assert reasons == ["empty answer"]
    messages = [
        {"role": "user", "content": "<|image|>What is shown?"},
        {"role": "assistant", "content": "A table."},
    ]
    pages = [
        {"image": ["./p/1.png"], "messages": messages},
        {"image": ["./p/2.png"], "messages": messages[1:]},
    ]
    records, reasons = made("docreason", save(tmp_path / "doc.jsonl", pages))
    assert values(records[0]) == ["<image>\nWhat is shown?", "A table."]
    assert records[0]["image"] == ["./p/1.png"]
    assert reasons == ["turns do not alternate"]
    assert FORMATS["viquae"].records.endswith(":viquae")


def test_v24_unichart_with_images_and_without(tmp_path: Path) -> None:
    table = {
        "image": [picture(), None],
        "imgname": ["a.png", "b.png"],
        "query": ["<opencqa> What rises?", "Highest?"],
        "label": ["Sales.", "May"],
    }
    path = tmp_path / "train-0.parquet"
    pq.write_table(pa.table(table), path)
    records, reasons = made("unichart", path)
    assert reasons == []
    assert [values(record)[0] for record in records] == [
        *("<image>\nWhat rises?", "<image>\nHighest?")
    ]
    assert (tmp_path / "unichart-out" / records[0]["image"][0]).read_bytes() == picture()
    assert records[1]["image"] == ["b.png"]


def test_v24_cambrian_by_source_and_without_several_images(tmp_path: Path) -> None:
    def row(source: str, text: str = "<image>\nWhat?") -> dict[str, Any]:
        turns = [{"from": "human", "value": text}, {"from": "gpt", "value": "It."}]
        return {"id": source, "source": source, "image": "x.jpg", "conversations": turns}

    rows = [row("idk_11k.json"), row("synthdog_500k_modified.json"), row("other.json")]
    rows.append(row("lnqa_302k.json", "<image>\n<image>\nWhich?"))
    path = save(tmp_path / "cambrian.jsonl", rows)
    expected = {
        "cambrian": ["idk_11k.json", "synthdog_500k_modified.json", "other.json"],
        "cambrian_1375k": ["idk_11k.json"],
        "cambrian_doc_1275k": ["synthdog_500k_modified.json"],
    }
    for name, ids in expected.items():
        records, reasons = made(name, path)
        assert [record["id"] for record in records] == ids
        assert ("several images in a turn" in reasons) == (name != "cambrian_doc_1275k")


def test_v24_idefics2_and_onevision_by_subset(tmp_path: Path) -> None:
    image = {"bytes": picture(), "path": None}
    texts = [{"user": "What?", "assistant": "Answer: It.", "source": "x"}]
    cauldron = tmp_path / "cauldron"
    for subset in ("vqarad", "websight", "datikz"):
        (cauldron / subset).mkdir(parents=True)
        table = pa.table({"images": [[image, image]], "texts": [texts]})
        pq.write_table(table, cauldron / subset / "train-00000-of-00001.parquet")
    records, reasons = made("idefics2", cauldron)
    assert reasons == []
    (record,) = records
    assert values(record) == ["<image>\n<image>\nWhat?", "It."]
    assert record["id"].startswith("vqarad/")
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "It."}]
    vision = tmp_path / "onevision"
    for subset in ("chart", "ureader_kg", "ureader_qa"):
        (vision / subset).mkdir(parents=True)
        table = pa.table(
            {
                "image": [image, None, image],
                "conversations": [turns, turns, [{"from": "system", "value": "x"}, *turns]],
            }
        )
        pq.write_table(table, vision / subset / "train-0.parquet")
    records, reasons = made("llava_onevision", vision)
    assert [values(record) for record in records] == [["<image>\nWhat?", "It."], ["What?", "It."]]
    assert reasons == ["another role"]


def test_v24_a_folder_of_another_layout_is_refused(tmp_path: Path) -> None:
    for name in ("art", "rects", "mtwi", "sroie", "kvqa"):
        with pytest.raises(DataError):
            rewrite(name, [tmp_path], tmp_path / f"{name}.jsonl")
        assert not (tmp_path / f"{name}.jsonl").exists()
    save(tmp_path / "kvqa" / "dataset.json", [])
    with raises_code(DataError, "VT-DATA-135", "dataset.json"):
        rewrite("kvqa", [tmp_path / "kvqa"], tmp_path / "k.jsonl")
