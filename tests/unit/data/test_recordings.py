"""Recordings with transcripts: every one is a record or skipped with a reason, and no speaker is in
two splits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile
from typer.testing import CliRunner

from tests.helpers.data_world import audio_file
from tests.helpers.errors import raises_code
from vita_train.cli.main import build_app
from vita_train.data.recordings import RecordingSettings, read_recordings, split_speakers
from vita_train.data.sources.reading import Row
from vita_train.data.sources.registry import load_registry
from vita_train.data.sources.source import open_splits
from vita_train.errors import DataError, UserError


def run(*words: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(build_app(), ["data", *map(str, words)])
    if isinstance(result.exception, UserError):
        return result.exception.exit_code, str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def corpus(at: Path) -> Path:
    """Ten speakers of four recordings; one listed as LibriSpeech lists them."""
    for number in range(40):
        path = audio_file(at / "in" / f"s{number % 10}" / f"u{number}.wav", 0.2, seed=number)
        if number % 10:
            path.with_suffix(".txt" if number % 2 else ".lab").write_text(f" Line  {number}.\n")
    lines = "".join(f"u{number} LISTED {number}\n" for number in range(0, 40, 10))
    (at / "in" / "s0" / "0.trans.txt").write_text(lines)
    return at / "in"


def read(out: Path) -> dict[str, list[Row]]:
    registry = load_registry(out / "registry.yaml")
    found: dict[str, list[Row]] = {}
    for source in open_splits((out / "registry.yaml").resolve(), registry):
        for row in source.checked_rows():
            assert isinstance(row, Row), row
            assert row.audios[0].path(source.roots).is_file()
            found.setdefault(source.split, []).append(row)
    return found


def test_every_recording_is_used_and_speakers_are_apart(tmp_path: Path) -> None:
    folder, out = corpus(tmp_path), tmp_path / "out"
    code, told = run("records", folder, "--out", out, "--dev", "0.1", "--test", "0.2")
    assert code == 0, told
    rows = read(out)
    speakers = {
        split: {row.audios[0].name.split("/")[0] for row in part} for split, part in rows.items()
    }
    assert {split: len(names) for split, names in speakers.items()} == {
        "dev": 1, "test": 2, "train": 7
    }  # fmt: skip
    assert len(set.union(*speakers.values())) == 10
    texts = {row.id: row.record.conversations[1].value for part in rows.values() for row in part}
    assert len(texts) == 40
    assert texts["s1/u1.wav"] == "Line 1."
    assert texts["s0/u10.wav"] == "LISTED 10"
    assert (out / "skipped.jsonl").read_text() == ""
    assert run("records", folder, "--out", out)[0] == 2
    assert run("check", out / "registry.yaml")[0] == 0


def test_what_is_not_used_has_a_reason(tmp_path: Path) -> None:
    folder = corpus(tmp_path)
    audio_file(folder / "s1" / "alone.wav")
    audio_file(folder / "s1" / "blank.wav").with_suffix(".txt").write_text(" \n")
    audio_file(folder / "s1" / "broken.wav").with_suffix(".txt").write_bytes(b"\xff\xfe\xfa")
    audio_file(folder / "s1" / "u1.flac")
    code, told = run("records", folder, "--out", tmp_path / "out", "--normalise")
    assert code == 0, told
    skipped = map(json.loads, (tmp_path / "out" / "skipped.jsonl").read_text().splitlines())
    assert {entry["file"]: entry["reason"] for entry in skipped} == {
        "s1/alone.wav": "no transcript",
        "s1/blank.wav": "empty transcript",
        "s1/broken.wav": "transcript is not UTF-8",
        "s1/u1.wav": "same stem as s1/u1.flac",
    }
    rows = read(tmp_path / "out")
    assert "line 11" in {
        row.record.conversations[1].value for part in rows.values() for row in part
    }


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_a_table_names_recordings_texts_and_speakers(tmp_path: Path, kind: str) -> None:
    for number in range(12):
        audio_file(tmp_path / "in" / f"u{number}.wav", 0.2, seed=number)
    comma = "," if kind == "csv" else "\t"
    lines = [comma.join(("Path", "sentence", "client_id"))]
    lines += [
        comma.join((f"u{n}.wav", f'"said" {n}' if kind == "tsv" else f"said {n}", f"c{n % 4}"))
        for n in range(11)
    ]
    lines += [comma.join(("../u1.wav", "x", "c")), comma.join(("u1.wav", "again", "c"))]
    (tmp_path / f"t.{kind}").write_text("\ufeff" + "\r\n".join(lines))
    code, told = run(
        "records", tmp_path / "in", "--table", tmp_path / f"t.{kind}", "--out", tmp_path / "out"
    )
    assert code == 0, told
    rows = read(tmp_path / "out")
    people = {
        split: {int(row.audios[0].name[1:-4]) % 4 for row in part} for split, part in rows.items()
    }
    assert sum(len(part) for part in rows.values()) == 11
    assert sum(len(names) for names in people.values()) == 4
    skipped = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").open()]
    assert [entry["file"] for entry in skipped] == [f"t.{kind}:13", f"t.{kind}:14", "u11.wav"]


def test_speakers_that_are_unknown_or_too_few(tmp_path: Path) -> None:
    for number in range(6):
        path = audio_file(tmp_path / "in" / f"u{number}.wav", 0.2, seed=number)
        path.with_suffix(".txt").write_text("text")
    out = tmp_path / "out"
    assert "--any-speaker" in run("records", tmp_path / "in", "--out", out)[1]
    assert run("records", tmp_path / "in", "--out", out, "--speaker", "(u)")[0] == 2
    assert run("records", tmp_path / "in", "--out", out, "--speaker", "u")[0] == 2
    assert run("records", tmp_path / "in", "--out", out, "--speaker", "(")[0] == 2
    assert not (out / "registry.yaml").exists()
    assert run("records", tmp_path / "in", "--out", out, "--any-speaker")[0] == 0
    assert {split: len(part) for split, part in read(out).items()} == {
        "dev": 1, "test": 1, "train": 4
    }  # fmt: skip


def test_folders_and_tables_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    audio_file(tmp_path / "in" / "s" / "a.wav")
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    for words in (
        ["records", tmp_path / "no"],
        ["records", tmp_path / "empty"],
        ["records", tmp_path / "in"],
        ["records", tmp_path / "in", "--table", tmp_path / "t.csv"],
        ["records", tmp_path / "in", "--table", tmp_path / "no.csv"],
    ):
        assert run(*words, "--out", tmp_path / "out")[0] == 2


@pytest.mark.parametrize("count", [3, 4, 50])
def test_every_split_has_a_speaker(count: int) -> None:
    speakers = [f"s{number % count}" for number in range(500)]
    splits = split_speakers(speakers, {"dev": 0.4, "test": 0.4})
    assert set(splits.values()) == {"train", "dev", "test"}
    assert set(splits) == set(speakers)


def test_a_table_of_pieces_cuts_them_out_of_long_recordings(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for who in range(4):
        audio_file(folder / f"s{who}" / "talk.wav", 3.0, seed=who)
    rows = [
        f"s{who}/talk.wav\tline {who}.{part}\t{part}\t{part + 0.5}"
        for who in range(4)
        for part in (1, 0)
    ]
    rows += ["s0/talk.wav\tbeyond\t2.5\t9", "s0/talk.wav\tback\t2\t1", "s9/talk.wav\tgone\t0\t1"]
    (tmp_path / "t.tsv").write_text("\n".join(["path\tsentence\tstart\tend", *rows]))
    code, told = run(
        "records",
        folder,
        "--table",
        tmp_path / "t.tsv",
        "--out",
        out,
        "--dev",
        "0",
        "--test",
        "0.2",
    )
    assert code == 0, told
    read_back = read(out)
    found = {row.id: row for part in read_back.values() for row in part}
    assert len(found) == 8
    row = found["s2/talk.wav#1-1.5"]
    assert row.record.conversations[1].value == "line 2.1"
    piece, rate = soundfile.read(row.audios[0].path({"audio": out / "segments"}))
    whole, _ = soundfile.read(folder / "s2" / "talk.wav")
    assert len(piece) == rate // 2
    assert abs(piece - whole[rate : rate + rate // 2]).max() < 1e-4
    assert {row.id.partition("/")[0] for row in read_back["test"]}.isdisjoint(
        {row.id.partition("/")[0] for row in read_back["train"]}
    )
    skipped = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    assert [one["file"] for one in skipped] == ["t.tsv:11", "t.tsv:12", "s0/talk.wav#2.5-9"]


def test_a_long_list_of_transcripts_is_read_to_its_end(tmp_path: Path) -> None:
    folder, out = corpus(tmp_path), tmp_path / "out"
    known = folder / "s0" / "0.trans.txt"
    others = "".join(f"absent{number} {'word ' * 100}\n" for number in range(1000))
    separated = known.read_text().replace("LISTED 30", "LISTED\u2028THIRTY")
    known.write_text(others + separated)
    assert known.stat().st_size > 500_000
    code, told = run("records", folder, "--out", out, "--dev", "0.1", "--test", "0.2")
    assert code == 0, told
    texts = {
        row.audios[0].name: row.record.conversations[-1].value
        for part in read(out).values()
        for row in part
    }
    assert len(texts) == 40
    assert texts["s0/u30.wav"] == "LISTED THIRTY"


def test_a_list_of_transcripts_that_is_no_text_is_named(tmp_path: Path) -> None:
    folder = corpus(tmp_path)
    (folder / "s0" / "0.trans.txt").write_bytes("u0 größe\n".encode("latin-1"))
    with raises_code(DataError, "VT-DATA-140", "0.trans.txt", "UTF-8"):
        read_recordings(folder, RecordingSettings())


def test_a_table_whose_header_is_too_long_is_one_error(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("audio,text," + "x" * 200_000 + "\n")
    with raises_code(UserError, "VT-USE-168", "table.csv"):
        read_recordings(corpus(tmp_path), RecordingSettings(), table)
