"""V11: every image of the LLaVA-1.5 mix is found whatever its ending, or its record is rejected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image
from typer.testing import CliRunner

from vita_train.cli.main import build_app
from vita_train.data.convert.endings import resolve_endings
from vita_train.data.sources.reading import Row, read_records


def record(image: object) -> dict[str, Any]:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "It."}]
    return {"id": str(image), "image": image, "conversations": turns}


def test_v11_names_become_those_of_the_files(tmp_path: Path) -> None:
    images = {
        "ocr_vqa/images/a.png": "PNG",
        "ocr_vqa/images/b.gif": "GIF",
        "coco/train2017/c.jpg": "JPEG",
        "coco/train2017/c.png": "PNG",
    }
    for name, kind in images.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name, kind)
    text = {"id": "t", "conversations": record("")["conversations"]}
    text["conversations"] = [{**turn, "value": "x"} for turn in text["conversations"]]
    rows = [
        record("ocr_vqa/images/a.jpg"),
        record("ocr_vqa/images/b.jpg"),
        record("coco/train2017/c.jpg"),
        record("ocr_vqa/images/gone.jpg"),
        text,
    ]
    (tmp_path / "mix.json").write_text(json.dumps(rows))
    counts = resolve_endings(tmp_path / "mix.json", [tmp_path], tmp_path / "out.json")
    assert counts == (4, 1, 2)
    found = [row for row in read_records(tmp_path / "out.json", {"images": tmp_path})]
    assert all(isinstance(row, Row) for row in found)
    names = [row.images[0].name for row in found if isinstance(row, Row) and row.images]
    assert names == ["ocr_vqa/images/a.png", "ocr_vqa/images/b.gif", "coco/train2017/c.jpg"]
    for name in names:
        Image.open(tmp_path / name).load()
    rejects = (tmp_path / "out.rejects.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in rejects] == ["ocr_vqa/images/gone.jpg"]


def test_the_command_says_what_it_changed(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "mix.json").write_text(json.dumps([record("a.jpg"), record(["a.jpg", "b.jpg"])]))
    out = tmp_path / "out.json"
    command = ["data", "endings", str(tmp_path / "mix.json"), "--out", str(out)]
    result = CliRunner().invoke(build_app(), [*command, "--root", str(tmp_path)])
    assert result.exit_code == 0
    assert "1 records, 1 rejected, 1 names changed" in result.output
    assert [one["image"] for one in json.loads(out.read_text())] == ["a.png"]
