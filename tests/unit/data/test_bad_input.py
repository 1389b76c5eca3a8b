"""Bad input, by a table: each case ends in a stated reason or one clear error, costs its own record
only, writes nothing, and hangs nothing."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from PIL import Image

from tests.helpers.data_world import audio_file, image_file, turns
from tests.helpers.media_zoo import corners, steady, tone, write_audio, write_video
from vita_train.data.check.run import CheckReport, CheckSettings, check_sources
from vita_train.data.check.targets import open_target
from vita_train.data.sources.leniency import LENIENCIES
from vita_train.data.sources.reading import Reject, Row, Rules, read_records
from vita_train.errors import DataError, UserError

ROOTS = {"pics": Path("/pics"), "audio": Path("/sounds")}
#: Every reason that reading may give. They are counted, so they are few and stay.
REASONS = {
    "duplicate key", "empty turn", "end_tag", "image and video", "inserted_id", "missing key",
    "no set", "not JSON", "not UTF-8", "not an object", "path outside its root",
    "placeholder count", "roles do not alternate", "start and end", "too large",
    "unanswered question", "unknown key", "unknown role", "unknown set", "wrong value",
}  # fmt: skip
GOOD = {"id": "good", "conversations": turns("hello", "hi")}
BASES: dict[str, dict[str, Any]] = {
    "id": GOOD,
    "conversations": GOOD,
    "set": {**GOOD, "set": "pics", "image": "a.jpg", "conversations": turns("<image>", "b")},
    "image": {**GOOD, "set": "pics", "image": "a.jpg", "conversations": turns("<image>", "b")},
    "video": {**GOOD, "set": "pics", "video": "a.mp4", "conversations": turns("<video>", "b")},
    "audio": {**GOOD, "audio": "a.wav", "conversations": turns("<audio>", "b")},
    "inserted_id": {
        **GOOD, "audio": "a.wav", "inserted_id": 1, "conversations": turns("<audio>", "b")
    },
    "end_tag": {**GOOD, "end_tag": False},
    "start": {
        **GOOD, "set": "pics", "video": "a.mp4", "start": 1, "conversations": turns("<video>", "b")
    },
    "end": {
        **GOOD, "set": "pics", "video": "a.mp4", "end": 3, "conversations": turns("<video>", "b")
    },
}  # fmt: skip
MISSING = object()
VALUES: dict[str, Any] = {
    "missing": MISSING, "null": None, "zero": 0, "minus one": -1, "half": 1.5, "true": True,
    "false": False, "empty text": "", "blank": " ", "long text": "x" * 200_000, "empty list": [],
    "list of empty": [""], "list of null": [None], "list of lists": [[]], "empty object": {},
    "object": {"a": 1}, "huge number": 10**40, "not a number": float("nan"),
    "infinite": float("inf"), "zero byte": "a\0b", "traversal": "../../etc/passwd",
    "absolute": "/etc/passwd", "backslashes": "..\\..\\etc\\passwd", "lone surrogate": "\ud800",
    "deep": [[[[[[[[[[1]]]]]]]]]], "placeholder": "<image><audio><video>",
}  # fmt: skip
#: What is right: ids of any kind, what may be left out, and file names however odd.
ACCEPTED = {
    *(("id", name) for name in VALUES if name != "lone surrogate"),
    ("set", "missing"), ("set", "null"), ("inserted_id", "missing"), ("inserted_id", "null"),
    ("end_tag", "missing"), ("end_tag", "true"), ("end_tag", "false"),
    ("start", "missing"), ("start", "null"), ("start", "zero"), ("start", "half"),
    ("end", "missing"), ("end", "null"), ("end", "half"),
    *((key, name) for key in ("image", "video", "audio") for name in ("long text", "placeholder")),
}  # fmt: skip
FIELD_CASES = [
    pytest.param(key, name, id=f"{key} {name}") for key in BASES for name in VALUES
]  # fmt: skip


def rows_of(path: Path, record: Any, rules: Rules = Rules()) -> list[Row | Reject]:  # noqa: B008
    path.write_text("\n".join(json.dumps(each) for each in (GOOD, record, GOOD)))
    return list(read_records(path, ROOTS, rules))


def check_rows(found: list[Row | Reject], *, good: bool) -> None:
    assert len(found) == 3
    assert isinstance(found[0], Row)
    assert isinstance(found[2], Row)
    if good:
        assert isinstance(found[1], Row), found[1]
        return
    assert isinstance(found[1], Reject), found[1]
    assert found[1].reason in REASONS
    assert found[1].row == 1
    assert found[1].detail


@pytest.mark.parametrize(("key", "name"), FIELD_CASES)
def test_a_field_of_another_kind(tmp_path: Path, key: str, name: str) -> None:
    record = dict(BASES[key])
    if VALUES[name] is MISSING:
        record.pop(key)
    else:
        record[key] = VALUES[name]
    check_rows(rows_of(tmp_path / "r", record), good=(key, name) in ACCEPTED)
    # Leniencies never take what would break later, and never raise.
    for row in rows_of(tmp_path / "r", record, Rules(tuple(LENIENCIES))):
        assert isinstance(row, Row) or row.reason in REASONS


@pytest.mark.parametrize("key", ["from", "value"])
@pytest.mark.parametrize("name", [name for name in VALUES if name not in ("long text",)])
@pytest.mark.parametrize("place", [0, 1])
def test_a_turn_of_another_kind(tmp_path: Path, key: str, name: str, place: int) -> None:
    record = json.loads(json.dumps(GOOD))
    if VALUES[name] is MISSING:
        del record["conversations"][place][key]
    else:
        record["conversations"][place][key] = VALUES[name]
    texts = {"zero byte", "traversal", "absolute", "backslashes"}
    texts |= {"placeholder"} if place else set()
    check_rows(rows_of(tmp_path / "r", record), good=key == "value" and name in texts)


def line(text: str | bytes) -> bytes:
    good = json.dumps(GOOD).encode()
    data = text.encode("utf-8", errors="surrogateescape") if isinstance(text, str) else text
    return good + b"\n" + data + b"\n" + good + b"\n"


BAD_LINES: dict[str, bytes] = {
    "not json": b"hello", "half an object": b'{"id": 1', "two objects": b'{"id": 1} {"id": 2}',
    "an array": b"[1, 2]", "a number": b"3", "a text": b'"x"', "null": b"null", "nan": b"NaN",
    "single quotes": b"{'id': 1}", "trailing comma": b'{"id": 1,}', "comment": b"// x",
    "key twice": b'{"id": 1, "id": 2}', "turns twice": b'{"conversations": [], "conversations": 1}',
    "deep arrays": b'{"id": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "open arrays": b"{" + b'"a":[' * 50_000,
    "huge number": b'{"id": ' + b"9" * 100_000 + b"}",
    "exponent": b'{"id": 1e999999}', "minus infinity": b'{"inserted_id": -Infinity}',
    "broken utf-8": b'{"id": "\xff\xfe"}', "cut utf-8": b'{"id": "\xe4\xbd"}',
    "gbk": '{"id": "今天天气很好我们去公园玩"}'.encode("gbk"),
    "shift-jis": '{"id": "今日はとても天気がいいです"}'.encode("shift_jis"),
    "latin-1": '{"id": "café"}'.encode("latin-1"),
    "control characters": b'{"id": "\x01\x02"}', "zero byte": b'{"id": "\x00"}',
    "escaped surrogate": b'{"id": "\\ud800", "conversations": 1}',
    "bad escape": b'{"id": "\\x41"}', "html": b"<html><body>404</body></html>",
    "lfs pointer": b"version https://git-lfs.github.com/spec/v1",
    "pickle": b"\x80\x04\x95\x0b\x00\x00\x00", "csv": b"id,text,audio",
    "a million keys": b"{" + b",".join(b'"k%d":1' % n for n in range(100_000)) + b"}",
    "a long line": b'{"id": "' + b"a" * (100 << 20) + b'"}',
}  # fmt: skip


@pytest.mark.parametrize("name", list(BAD_LINES))
def test_a_bad_line_costs_that_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "r.jsonl").write_bytes(line(BAD_LINES[name]))
    check_rows(list(read_records(tmp_path / "r.jsonl", ROOTS)), good=False)


#: Placeholders where none belongs, and control tokens: what reading makes of them.
PLACED: dict[str, tuple[dict[str, Any], str]] = {
    "image in the answer": ({"set": "pics", "image": "a.jpg",
                             "conversations": turns("what?", "<image>")}, "placeholder count"),
    "audio in the answer": ({"audio": "a.wav", "conversations": turns("what?", "<audio>")},
                            "placeholder count"),
    "video in the answer": ({"set": "pics", "video": "a.mp4",
                             "conversations": turns("what?", "<video>")}, "placeholder count"),
    "image for audio": ({"audio": "a.wav", "conversations": turns("<image>", "b")},
                        "placeholder count"),
    "one too many": ({"set": "pics", "image": "a.jpg",
                      "conversations": turns("<image><image>", "b")}, "placeholder count"),
    "one too few": ({"set": "pics", "image": ["a.jpg", "b.jpg"],
                     "conversations": turns("<image>", "b")}, "placeholder count"),
    "escaped": ({"set": "pics", "image": "a.jpg", "conversations": turns("\\<image>", "b")},
                "placeholder count"),
    "beside no file": ({"conversations": turns("<image> is a word", "<audio> too")},
                       "placeholder count"),
    "turn ends": ({"conversations": turns("<|im_end|>\n<|im_start|>assistant\nno", "<|im_end|>")},
                  ""),
    "end of text": ({"conversations": turns("<|endoftext|></s>[INST]", "\u261e<pad>")}, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", list(PLACED))
def test_placeholders_and_control_tokens_where_they_do_not_belong(
    tmp_path: Path, name: str
) -> None:
    record, reason = PLACED[name]
    (_, found, _) = rows_of(tmp_path / "r", {"id": 1, **record})
    assert (found.reason if isinstance(found, Reject) else "") == reason


def packed(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


_ARRAY = json.dumps([GOOD, GOOD]).encode()
BAD_FILES: dict[str, bytes] = {
    "cut array": _ARRAY[:-3], "cut in a text": _ARRAY[:60], "open array": b"[",
    "text behind": _ARRAY + b"x", "two arrays": _ARRAY + _ARRAY, "no comma": b"[{} {}]",
    "double comma": b"[{},,{}]", "bad element": b'[{"a": }]', "deep": b"[" * 200_000,
    "utf-16 cut": json.dumps([GOOD]).encode("utf-16")[:-1] + b"\xd8",
    "utf-32 broken": json.dumps([GOOD]).encode("utf-32-le") + b"\xff\xff\xff\xff",
    "gzip cut": gzip.compress(_ARRAY)[:-12], "gzip header": b"\x1f\x8b\x08\x00",
    "gzip rubbish": b"\x1f\x8b" + b"x" * 100, "zstd cut": packed(_ARRAY)[:-6],
    "zstd rubbish": b"\x28\xb5\x2f\xfd" + b"x" * 100,
    "gzip bomb of an element": gzip.compress(b'[{"id": "' + b"a" * (80 << 20), 1),
}  # fmt: skip


@pytest.mark.parametrize("name", list(BAD_FILES))
def test_a_bad_file_is_one_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "r").write_bytes(BAD_FILES[name])
    with pytest.raises(DataError) as caught:
        list(read_records(tmp_path / "r", ROOTS))
    assert caught.value.where == str(tmp_path / "r")
    assert caught.value.remedy


@pytest.mark.parametrize("name", ["missing", "folder", "fifo", "device", "loop", "unreadable name"])
def test_what_is_no_file_is_one_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / "r"
    if name == "folder":
        path.mkdir()
    elif name == "fifo":
        os.mkfifo(path)
    elif name == "device":
        path.symlink_to("/dev/zero")
    elif name == "loop":
        path.symlink_to(path)
    elif name == "unreadable name":
        path = tmp_path / ("x" * 5000)
    with pytest.raises(UserError):
        list(read_records(path, ROOTS))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(
        b"IEND", b""
    )  # fmt: skip


def zipped() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"\0" * (10 << 20))
    return data.getvalue()


def ten_hours(path: Path) -> None:
    """A WAV whose header and length say ten hours; its samples are a hole of the file."""
    size = 10 * 3600 * 16000 * 2
    header = b"RIFF" + struct.pack("<I", size + 36) + b"WAVEfmt "
    header += struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16)
    path.write_bytes(header + b"data" + struct.pack("<I", size))
    os.truncate(path, size + 44)


def cut(write: Callable[[Path], Any], share: float) -> Callable[[Path], None]:
    def damaged(path: Path) -> None:
        write(path)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    return damaged


def raw(data: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(data)


def samples(values: Any, rate: int = 16000) -> Callable[[Path], None]:
    return lambda path: soundfile.write(path, np.asarray(values, dtype=np.float32), rate, "FLOAT")


def jpeg(path: Path) -> None:
    image_file(path, 200, 150)


def saved(image: Image.Image, **options: Any) -> Callable[[Path], None]:
    return lambda path: image.save(path, **options)


PLAIN = Image.fromarray(corners())
#: File name, how it is made, and the reason; empty where it can be used.
MEDIA: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty.wav": (raw(b""), "empty file"),
    "no-samples.wav": (samples([]), "empty audio"),
    "one-sample.wav": (samples([0.5]), ""),  # see below
    "text.wav": (raw(b"hello" * 100), "unreadable audio"),
    "image.wav": (saved(PLAIN, format="PNG"), "unreadable audio"),
    "html.mp3": (raw(b"<html>404</html>" * 20), "unreadable audio"),
    "nan.wav": (samples([float("nan")] * 16000), "unreadable audio"),
    "infinite.wav": (samples([float("inf")] * 16000), "unreadable audio"),
    "silent.wav": (samples([0.0] * 16000), "silent audio"),
    "cut.wav": (cut(audio_file, 0.5), "truncated audio"),
    "cut.flac": (cut(lambda path: write_audio(path, tone()), 0.4), ""),
    "ten-hours.wav": (ten_hours, "audio too long"),
    "eight-channels.wav": (samples(np.tile(tone()[:, None], (1, 8))), ""),
    "ninety-six.wav": (lambda path: audio_file(path, rate=96000), ""),
    "low.wav": (samples(tone(1.0, 4000), 4000), ""),
    "fifo.wav": (os.mkfifo, "unreadable audio"),
    "folder.wav": (lambda path: path.mkdir(), "unreadable audio"),
    "device.wav": (lambda path: path.symlink_to("/dev/zero"), "path outside its root"),
    "outside.wav": (lambda path: path.symlink_to("/etc/passwd"), "path outside its root"),
    "loop.wav": (lambda path: path.symlink_to(path), ""),
    "missing.wav": (lambda path: None, "missing file"),
    "empty.jpg": (raw(b""), "empty file"),
    "cut.jpg": (cut(jpeg, 0.5), "truncated image"),
    "cut.png": (cut(saved(Image.fromarray(np.random.default_rng(0).integers(
        0, 255, (60, 60, 3), dtype=np.uint8)), format="PNG"), 0.5), "truncated image"),
    "text.jpg": (raw(b"hello"), "unreadable image"),
    "sound.jpg": (lambda path: soundfile.write(path, tone(), 16000, format="WAV"),
                  "unreadable image"),
    "drawing.svg": (raw(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "unreadable image"),
    "zip.png": (raw(zipped()), "unreadable image"),
    "gzip.png": (raw(gzip.compress(b"\0" * (10 << 20))), "unreadable image"),
    "bomb.png": (raw(bomb(60_000, 60_000)), "too large"),
    "cut-bomb.png": (raw(bomb(9_000, 9_000)), ""),
    "pointer.png": (raw(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
                    "unreadable image"),
    "mislabelled.png": (lambda path: PLAIN.save(path, format="JPEG"), ""),
    "one-pixel.png": (saved(Image.new("RGB", (1, 1))), ""),
    "thin.png": (saved(Image.new("RGB", (4000, 1))), ""),
    "cmyk.jpg": (saved(PLAIN.convert("CMYK")), ""),
    "deep.png": (saved(Image.fromarray(np.arange(1536, dtype=np.uint16).reshape(32, 48))), ""),
    "alpha.png": (saved(PLAIN.convert("RGBA")), ""),
    "animated.gif": (saved(PLAIN, save_all=True, append_images=[PLAIN.rotate(90)]), ""),
    "fifo.png": (os.mkfifo, "unreadable image"),
    "empty.mp4": (raw(b""), "empty file"),
    "text.mp4": (raw(b"hello" * 100), "unreadable video"),
    "sound.mp4": (lambda path: soundfile.write(path, tone(), 16000, format="WAV"),
                  "unreadable video"),
    "audio-only.mp4": (lambda path: write_audio(path.with_suffix(".m4a"), tone()).rename(path),
                       "unreadable video"),
    "one-frame.mp4": (lambda path: write_video(path, steady(1)), ""),
    "rotated.mp4": (lambda path: write_video(path, steady(5), rotation=90), ""),
    "uneven.mp4": (lambda path: write_video(path, [Fraction(n) for n in (0, 1, 5, 6)]), ""),
    "cut.mp4": (cut(lambda path: write_video(path, steady(50)), 0.6), "truncated video"),
    "cut.mkv": (cut(lambda path: write_video(path, steady(50)), 0.6), "truncated video"),
}  # fmt: skip
#: Damaged in a way that decoders tell apart differently: used or rejected, any of their reasons.
EITHER = {"one-sample.wav", "cut.flac", "loop.wav", "cut-bomb.png", "cut.mp4", "cut.mkv"}
KINDS = {".wav": "audio", ".mp3": "audio", ".flac": "audio", ".mp4": "video", ".mkv": "video"}
NAMES = {
    "traversal": "../secret.jpg", "absolute": "/etc/passwd", "backslashes": "..\\secret.jpg",
    "zero byte": "a\0.jpg", "long": "x" * 5000 + ".jpg", "newline": "a\nb.jpg",
    "address": "http://127.0.0.1:1/a.jpg", "protocol": "concat:a.jpg|b.jpg", "dot": ".",
    "hidden traversal": "a/../../secret.jpg", "dash": "-rf.jpg", "home": "~/secret.jpg",
}  # fmt: skip


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> tuple[CheckReport, list[str]]:
    """All bad media in one file, checked at once."""
    at = tmp_path_factory.mktemp("bad")
    (at / "media").mkdir()
    (at / "secret.jpg").write_bytes(b"secret")
    image_file(at / "media" / "good.jpg")
    rows, names = [], []
    for name, (write, _) in MEDIA.items():
        write(at / "media" / name)
        kind = KINDS.get(Path(name).suffix, "image")
        rows.append({"id": name, kind: name, "conversations": turns(f"<{kind}>", f"is {name}")})
        names.append(name)
    for name, file in NAMES.items():
        rows.append({"id": name, "image": file, "conversations": turns("<image>", f"is {name}")})
        names.append(name)
    rows.append({"id": "good", "image": "good.jpg", "conversations": turns("<image>", "good")})
    (at / "r.json").write_text(json.dumps(rows))
    before = sorted(path.name for path in at.rglob("*"))
    report = check_sources(
        open_target(at / "r.json", roots=[str(at / "media")]),
        CheckSettings(max_rejects=1000),
        workers=2,
        progress=lambda _: None,
    )
    assert sorted(path.name for path in at.rglob("*")) == before
    assert report.ledger.records == len(rows) == report.ledger.used + report.ledger.rejected
    return report, names


@pytest.mark.parametrize("name", [*MEDIA, *NAMES])
def test_a_bad_file_costs_its_record(checked: tuple[CheckReport, list[str]], name: str) -> None:
    report, _ = checked
    found = {reject.id: reject for _, _, reject in report.rejects}
    assert "good" not in found
    if name in NAMES:
        assert name in found
        assert found[name].reason in {
            "path outside its root", "missing file", "unreadable image", "wrong value"
        }  # fmt: skip
    elif name not in EITHER:
        reason = MEDIA[name][1]
        assert (found[name].reason if name in found else "") == reason, found.get(name)


def test_the_table_is_large_enough() -> None:
    turn_cases = 2 * 2 * (len(VALUES) - 1)
    cases = len(FIELD_CASES) + turn_cases + len(BAD_LINES) + len(BAD_FILES) + len(PLACED) + 6
    assert cases + len(MEDIA) + len(NAMES) >= 300
