"""Joining records: every record goes to one place, media stay with their placeholders, and nothing
grows beyond the limit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.helpers.data_world import audio_file, image_file, turns, video_file
from vita_train.cli.main import build_app
from vita_train.data.check.examine import length_examiner
from vita_train.data.check.targets import open_target
from vita_train.data.prepare.row_encoder import Example
from vita_train.data.prepare.tokenizer import train_tokenizer
from vita_train.data.sources.reading import Row
from vita_train.errors import UserError
from vita_train.recipe.load import load_recipe


def run(*words: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(build_app(), ["data", *map(str, words)])
    if isinstance(result.exception, UserError):
        return result.exception.exit_code, result.exception.code
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty records of every kind in one file, one of them bad; and a tokenizer."""
    at = tmp_path_factory.mktemp("concat")
    for name in ("a", "b"):
        image_file(at / "m" / f"{name}.jpg")
    audio_file(at / "m" / "s.wav", 1.0)
    video_file(at / "m" / "v.mp4")
    rows: list[Any] = [
        {"id": 0, "image": "a.jpg", "set": "x", "conversations": turns("<image>\nwhat?", "a")},
        {
            "id": 1,
            "image": ["a.jpg", "b.jpg"],
            "set": ["x", "y"],
            "conversations": turns("<image><image>", "b", "sure?", "yes"),
        },
        {"id": "n1", "audio": "s.wav", "inserted_id": 1, "conversations": turns("<audio>", "c")},
        {
            "id": "n2",
            "audio": ["s.wav", "s.wav"],
            "inserted_id": 3,
            "conversations": turns("<audio>", "c", "<audio>", "d"),
        },
        {"id": "cut", "audio": "s.wav", "end_tag": False, "conversations": turns("<audio>", "e")},
        {"id": "v", "video": "v.mp4", "set": "x", "start": 0.0, "end": 1.0,
         "conversations": turns("<video>", "f")},
        {"id": "lost", "image": "no.jpg", "set": "x", "conversations": turns("<image>", "g")},
        {"id": "long", "conversations": turns("the red circle " * 300, "h")},
        *({"id": f"t{n}", "conversations": turns(f"say {n}", str(n))} for n in range(12)),
    ]  # fmt: skip
    (at / "r.json").write_text(json.dumps(rows))
    train_tokenizer(["the red circle"] * 20, 420, at / "tokenizer")
    return at


def words(world: Path) -> list[str]:
    return [
        "--recipe", "tiny", "--set", f"tokenizer.source={world / 'tokenizer'}", "--set",
        "model.llm.max_positions=4096", "--root", f"x={world / 'm'}", "--root",
        f"y={world / 'm'}", "--root", f"audio={world / 'm'}",
    ]  # fmt: skip


def joined(world: Path, out: Path, *more: str) -> tuple[list[Any], list[dict[str, Any]]]:
    options = ["--out", str(out), "--tokens", "300", *words(world), *more]
    code, told = run("concat", world / "r.json", *options)
    assert code == 0, told
    ledger = out.with_name(f"{out.stem}.ledger.jsonl").read_text().splitlines()
    return json.loads(out.read_text()), [json.loads(line) for line in ledger]


def files(record: dict[str, Any], kind: str) -> list[str]:
    value = record.get(kind, [])
    return [value] if isinstance(value, str) else value


def test_every_record_goes_to_one_place_whole(world: Path, tmp_path: Path) -> None:
    source = json.loads((world / "r.json").read_text())
    before = (world / "r.json").read_bytes()
    out, ledger = joined(world, tmp_path / "j.json")
    assert sorted(line["row"] for line in ledger) == list(range(len(source)))
    assert [line["id"] for line in ledger if "reason" in line] == ["lost"]
    placed = [line for line in ledger if "reason" not in line]
    assert len(out) < len(placed)
    # What the ledger says, put together independently, is what was written.
    for number, record in enumerate(out):
        members = [source[line["row"]] for line in placed if line["record"] == number]
        assert members
        assert record["conversations"] == [turn for one in members for turn in one["conversations"]]
        for kind in ("image", "audio", "video"):
            names = [name for one in members for name in files(one, kind)]
            assert files(record, kind) == names
            count = sum(f"<{kind}>" in part for turn in record["conversations"]
                        for part in turn["value"].replace(">", ">\0").split("\0"))  # fmt: skip
            assert count == len(names)
        if any("image" in one for one in members):
            sets = [one["set"] for one in members if "image" in one]
            flat = [name for each in sets for name in ([each] if isinstance(each, str) else each)]
            assert files(record, "set") == flat
            assert len(flat) == len(files(record, "image"))
        ids = [one["id"] for one in members]
        assert record["id"] == (ids if len(ids) > 1 else ids[0])
        negative = [one for one in members if "inserted_id" in one]
        assert len(negative) <= 1
        for one in negative:
            answer = one["conversations"][one["inserted_id"]]
            assert record["conversations"][record["inserted_id"]] is not None
            assert record["conversations"][record["inserted_id"]] == answer
        if any(one.get("end_tag") is False for one in members):
            assert members[-1]["id"] == "cut"
            assert record["end_tag"] is False
    by_id = {line["id"]: line for line in placed}
    for name in ("v", "long"):
        assert sum(line["record"] == by_id[name]["record"] for line in placed) == 1
    video = out[by_id["v"]["record"]]
    assert (video["set"], video["start"], video["end"]) == ("x", 0.0, 1.0)
    assert (world / "r.json").read_bytes() == before
    assert not [path.name for path in tmp_path.iterdir() if path.suffix == ".part"]


def test_lengths_are_within_the_limit_as_they_will_be_prepared(world: Path, tmp_path: Path) -> None:
    _, ledger = joined(world, tmp_path / "j.json")
    counted: dict[int, int] = {}
    for line in ledger:
        if "tokens" in line:
            counted[line["record"]] = counted.get(line["record"], 0) + line["tokens"]
    (source,) = open_target(
        tmp_path / "j.json", roots=[f"{key}={world / 'm'}" for key in ("x", "y", "audio")]
    )
    recipe = load_recipe(
        "tiny", [f"tokenizer.source={world / 'tokenizer'}", "model.llm.max_positions=4096"]
    )
    with length_examiner(recipe) as examiner:
        for number, found in enumerate(examiner.split(source)):
            assert isinstance(found.row, Row)
            assert isinstance(found.result, Example)
            assert found.result.tokens <= counted[number]
            assert counted[number] <= 300 or found.row.id == "long"


def test_the_order_is_the_seeds_and_sets_can_be_kept_apart(world: Path, tmp_path: Path) -> None:
    first, _ = joined(world, tmp_path / "1.json")
    assert joined(world, tmp_path / "2.json", "--workers", "2")[0] == first
    assert joined(world, tmp_path / "3.json", "--seed", "1")[0] != first
    apart, _ = joined(world, tmp_path / "4.json", "--same-set")
    for record in apart:
        if isinstance(record["id"], list) and {0, 1} & set(record["id"]):
            pytest.fail("records of other sets were joined")


def test_under_its_public_name(world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "r.json").write_bytes((world / "r.json").read_bytes())
    (tmp_path / "more").mkdir()
    text = {"id": "u", "model": "?", "conversations": turns("a", "b")}
    good = {"id": "w", "conversations": turns("a", "b")}
    (tmp_path / "more" / "s.jsonl").write_text(f"{json.dumps(text)}\n{json.dumps(good)}\n")
    code, told = run(
        "tools", "concat_data_patch", "--input_dirs", folder, tmp_path / "more", "--output_dir",
        tmp_path / "out", "--max_tokens", "300", *words(world),
    )  # fmt: skip
    assert code == 1, told  # the lost file, and a field that would have been lost
    assert "unknown key 1" in told
    out = json.loads((tmp_path / "out" / "all-QwenPatchConcat300.json").read_text())
    ids = [
        name
        for each in out
        for name in (each["id"] if isinstance(each["id"], list) else [each["id"]])
    ]
    assert len(ids) == len(set(ids)) == 20
    words_of_none = ["--input_dirs", tmp_path / "no", "--output_dir", tmp_path]
    assert run("tools", "concat_data_patch", *words_of_none)[0] == 2
    same = world / "r.json"
    code, told = run("concat", same, "--out", same, *words(world))
    assert (code, same.stat().st_size > 100) == (2, True)
