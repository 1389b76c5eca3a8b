"""A recipe's source of kind ``catalogue``: what was fetched becomes records, or the command that
fetches it is told."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
from PIL import Image

from tests.helpers.data_world import audio_file
from vita_train.data.adapters.build import check_catalogue
from vita_train.data.catalogue.load import Catalogue, load_catalogue
from vita_train.data.fetch.run import fetch as fetch_entries
from vita_train.data.sources.fetch import fetch, fetch_all
from vita_train.data.sources.reading import Row, read_records
from vita_train.data.sources.synth.serve import served
from vita_train.errors import DataError, UserError
from vita_train.recipe.load import load_recipe
from vita_train.recipe.sources import CatalogueSource

TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A mug."}]


def brought(
    name: str, files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fetch an entry of the catalogue from local files in place of its own places."""
    real = load_catalogue()
    for path, text in files.items():
        (tmp_path / "far" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "far" / path).write_text(text)
    own = tmp_path / "own"
    own.mkdir(exist_ok=True)
    place = [{"kind": "file", "path": str(tmp_path / "far")}]
    plain = real[name].model_dump(mode="json", exclude_defaults=True)
    entry = {**plain, "places": place, "mirrors": {}, "needs": []}
    (own / f"{name}.yaml").write_text(json.dumps(entry))
    monkeypatch.setenv("VITA_TRAIN_CATALOGUE", str(own))
    monkeypatch.setenv("VITA_TRAIN_DATA", str(tmp_path / "data"))
    changed = load_catalogue()[name]
    fetch_entries(
        [changed], tmp_path / "data", catalogue=Catalogue({name: changed}, {}), accept_licence=True
    )


def rows(out: Path, name: str, split: str) -> list[Row]:
    registry = json.loads((out / "registry.json").read_text())
    source = registry["datasets"][name][split]
    roots = {key: out / root for key, root in source["roots"].items()}
    found = list(read_records(out / source["records"], roots))
    assert all(isinstance(row, Row) for row in found)
    return [row for row in found if isinstance(row, Row)]


def test_records_of_llava_are_used_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = {"id": "1", "image": "coco/train2017/1.jpg", "conversations": TURNS}
    files = {"llava/llava_v1_5_mix665k.json": json.dumps([record])}
    brought("llava-mix665k", files, tmp_path, monkeypatch)
    fetch(CatalogueSource(name="llava-mix665k"), tmp_path / "out", seed=0)
    (row,) = rows(tmp_path / "out", "llava-mix665k", "train")
    roots = {"images": tmp_path / "data"}
    assert row.images[0].path(roots) == tmp_path / "data" / "coco/train2017/1.jpg"


def test_captions_of_coco_become_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def captions(*texts: str | None) -> str:
        images = [{"id": 7, "file_name": "000000000007.jpg"}]
        listed = [
            {"id": number, "image_id": 7, "caption": text} for number, text in enumerate(texts)
        ]
        return json.dumps(
            {"images": images, "annotations": [*listed, {"image_id": 8, "caption": "x"}]}
        )

    files = {
        "coco/annotations/captions_train2017.json": captions("A mug.", None, " A \n cup. "),
        "coco/annotations/captions_val2017.json": captions("A dog."),
    }
    brought("coco-captions", files, tmp_path, monkeypatch)
    fetch(CatalogueSource(name="coco-captions"), tmp_path / "out", seed=0)
    train = rows(tmp_path / "out", "coco-captions", "train")
    assert [row.record.conversations[1].value for row in train] == ["A mug.", "A cup."]
    assert str(train[0].images[0]) == "train:000000000007.jpg"
    assert len(rows(tmp_path / "out", "coco-captions", "dev")) == 1
    rejects = (tmp_path / "out" / "train.rejects.jsonl").read_text().splitlines()
    assert [json.loads(line)["reason"] for line in rejects] == ["no caption", "unknown image"]


def test_librispeech_becomes_records_by_its_own_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = "librispeech/LibriSpeech"
    files = {
        f"{root}/train-clean-100/19/198/19-198.trans.txt": "19-198-0 A MUG\n19-198-1 GONE\n",
        f"{root}/train-clean-100/19/198/19-198-0.flac": "",
        f"{root}/dev-clean/84/1/84-1.trans.txt": "84-1-0 A DOG\n",
        f"{root}/dev-clean/84/1/84-1-0.flac": "",
    }
    brought("librispeech", files, tmp_path, monkeypatch)
    fetch(CatalogueSource(name="librispeech"), tmp_path / "out", seed=0)
    (row,) = rows(tmp_path / "out", "librispeech", "train")
    assert row.record.conversations[1].value == "a mug"
    assert str(row.audios[0]) == "audio:train-clean-100/19/198/19-198-0.flac"
    assert [row.id for row in rows(tmp_path / "out", "librispeech", "dev")] == ["84-1-0"]
    assert "no recording" in (tmp_path / "out" / "train.rejects.jsonl").read_text()


def test_libritts_becomes_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = "libritts/LibriTTS/train-clean-100/19/198"
    files = {
        f"{root}/19_198_0.wav": "",
        f"{root}/19_198_0.normalized.txt": "A mug,\nreally.",
        f"{root}/19_198_1.wav": "",
    }
    brought("libritts", files, tmp_path, monkeypatch)
    fetch(CatalogueSource(name="libritts"), tmp_path / "out", seed=0)
    (row,) = rows(tmp_path / "out", "libritts", "train")
    assert row.record.conversations[1].value == "A mug, really."


#: Corpus, its files, and what becomes of them: split, id, text.
SPEECH: list[tuple[str, dict[str, str], list[tuple[str, str, str]]]] = [
    (
        "aishell-1",
        {
            "aishell/data_aishell/transcript/aishell_transcript_v0.8.txt": "A1 而 对\nA2 楼市\n",
            "aishell/data_aishell/wav/train/S0002/A1.wav": "",
            "aishell/data_aishell/wav/test/S0764/A2.wav": "",
            "aishell/data_aishell/wav/train/S0002/A3.wav": "",
        },
        [("train", "A1", "而对"), ("test", "A2", "楼市")],
    ),
    (
        "aishell-3",
        {
            "aishell3/train/content.txt": "SSB00050001.wav\t广 guang3 州 zhou1\n",
            "aishell3/train/wav/SSB0005/SSB00050001.wav": "",
            "aishell3/test/content.txt": "SSB00050002.wav\t女 nv3\nSSB00050003.wav\t大 da4\n",
            "aishell3/test/wav/SSB0005/SSB00050002.wav": "",
        },
        [("train", "SSB00050001", "广州"), ("test", "SSB00050002", "女")],
    ),
    (
        "ljspeech",
        {
            "ljspeech/LJSpeech-1.1/metadata.csv": (
                "LJ001-0001|In 1|In one\nLJ002-0001|b|b\nLJ003-0001|c|c\n"
            ),
            **{f"ljspeech/LJSpeech-1.1/wavs/LJ00{chapter}-0001.wav": "" for chapter in (1, 2, 3)},
        },
        [
            ("train", "LJ001-0001", "In one"),
            ("dev", "LJ002-0001", "b"),
            ("test", "LJ003-0001", "c"),
        ],
    ),
    (
        "vctk",
        {
            **{f"vctk/txt/p{who}/p{who}_001.txt": f"I am {who}." for who in (225, 226, 227)},
            **{
                f"vctk/wav48_silence_trimmed/p{who}/p{who}_001_mic{number}.flac": ""
                for who in (225, 226, 227)
                for number in (1, 2)
            },
        },
        [
            ("train", "p225_001", "I am 225."),
            ("dev", "p226_001", "I am 226."),
            ("test", "p227_001", "I am 227."),
        ],
    ),
    (
        "hifi-tts",
        {
            "hifi_tts/hi_fi_tts_v0/92_manifest_clean_train.json": json.dumps(
                {"audio_filepath": "audio/92_clean/1/a.flac", "text": "1", "text_normalized": "one"}
            )
            + "\n{}\n",
            "hifi_tts/hi_fi_tts_v0/audio/92_clean/1/a.flac": "",
        },
        [("train", "92_clean/1/a", "one")],
    ),
    (
        "magicdata-read",
        {
            "magicdata/train/TRANS.txt": (
                "UtteranceID\tSpeakerID\tTranscription\n38_1.wav\t38\t你好 吗\n"
            ),
            "magicdata/train/38/38_1.wav": "",
        },
        [("train", "38_1", "你好吗")],
    ),
    (
        "gigaspeech",
        {
            "gigaspeech/data/metadata/xs_metadata/xs_chunks_0000_metadata.csv": (
                "sid,speaker,text_tn\nPOD1_S1,N/A,WELL <COMMA> IT'S ON <QUESTIONMARK>\n"
                "POD1_S2,N/A,<MUSIC>\nPOD1_S3,N/A,GONE\n"
            ),
            "gigaspeech/segments/xs_chunks_0000/POD1_S1.wav": "",
            "gigaspeech/segments/xs_chunks_0000/POD1_S2.wav": "",
        },
        [("train", "POD1_S1", "well, it's on?")],
    ),
]


@pytest.mark.parametrize(("name", "files", "expected"), SPEECH, ids=[case[0] for case in SPEECH])
def test_speech_corpora_become_records(
    name: str,
    files: dict[str, str],
    expected: list[tuple[str, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    brought(name, files, tmp_path, monkeypatch)
    fetch(CatalogueSource(name=name), tmp_path / "out", seed=0)
    written = json.loads((tmp_path / "out" / "registry.json").read_text())["datasets"][name]
    found = [
        (split, row.id, row.record.conversations[1].value)
        for split in ("train", "dev", "test")
        if split in written
        for row in rows(tmp_path / "out", name, split)
    ]
    assert sorted(found) == sorted(expected)


def lines(*rows: dict[str, object]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_segments_of_long_recordings_are_cut_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "talks.yaml").write_text(
        json.dumps(
            {
                "name": "talks", "title": "Talks", "licence": {"name": "own"}, "task": "asr",
                "places": [{"kind": "file", "path": str(tmp_path / "far")}],
                "adapter": "lhotse", "records_from": ["talks"], "roots": {"audio": "talks"},
            }
        )
    )  # fmt: skip
    far = tmp_path / "far" / "talks"
    audio_file(far / "audio" / "long.wav", 4.0)
    audio_file(far / "audio" / "short.wav", 1.0)

    def at(name: str, seconds: float) -> dict[str, object]:
        sources = [{"type": "file", "channels": [0], "source": f"audio/{name}.wav"}]
        return {"id": name, "sources": sources, "duration": seconds, "sampling_rate": 16000}

    def said(name: str, where: str, start: float, seconds: float, text: str) -> dict[str, object]:
        return {
            "id": name,
            "recording_id": where,
            "start": start,
            "duration": seconds,
            "text": text,
        }

    (far / "x_recordings_train.jsonl").write_text(lines(at("long", 4.0), at("gone", 1.0)))
    (far / "x_supervisions_train.jsonl").write_text(
        lines(
            said("b", "long", 1.5, 1.0, "two"),
            said("a/../1", "long", 0.25, 1.0, " one  more "),
            said("c", "long", 3.5, 9.0, "beyond"),
            said("d", "gone", 0.0, 1.0, "nowhere"),
            said("e", "long", 2.0, 1.0, ""),
        )
    )
    (far / "x_recordings_dev.jsonl").write_text(lines(at("short", 1.0)))
    (far / "x_supervisions_dev.jsonl").write_text(lines(said("s", "short", 0.0, 0.99, "short")))
    monkeypatch.setenv("VITA_TRAIN_CATALOGUE", str(own))
    monkeypatch.setenv("VITA_TRAIN_DATA", str(tmp_path / "data"))
    entry = load_catalogue()["talks"]
    fetch_entries(
        [entry], tmp_path / "data", catalogue=Catalogue({"talks": entry}, {}), accept_licence=True
    )
    fetch(CatalogueSource(name="talks"), tmp_path / "out", seed=0)
    train = rows(tmp_path / "out", "talks", "train")
    assert [(row.id, row.record.conversations[1].value) for row in train] == [
        ("a/../1", "one more"),
        ("b", "two"),
    ]
    whole, _ = soundfile.read(far / "audio" / "long.wav", dtype="int16")
    registry = json.loads((tmp_path / "out" / "registry.json").read_text())["datasets"]["talks"]
    root = tmp_path / "out" / registry["train"]["roots"]["audio"]
    for row, start in zip(train, (0.25, 1.5), strict=True):
        piece, rate = soundfile.read(row.audios[0].path({"audio": root}), dtype="int16")
        assert rate == 16000
        first = round(start * rate)
        assert abs(piece.astype(int) - whole[first : first + rate].astype(int)).max() <= 1
    reasons = (tmp_path / "out" / "train.rejects.jsonl").read_text()
    for name, reason in (
        ("c", "outside its recording"),
        ("d", "no recording"),
        ("e", "no transcript"),
    ):
        assert json.dumps({"where": name, "reason": reason}) in reasons
    (dev,) = rows(tmp_path / "out", "talks", "dev")
    assert str(dev.audios[0]) == "audio:audio/short.wav", "used where it is"


def test_what_was_not_fetched_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = CatalogueSource(name="llava-mix665k", folder=str(tmp_path / "data"))
    with pytest.raises(DataError) as caught:
        fetch(source, tmp_path / "out", seed=0)
    assert f"vita-train data fetch llava-mix665k --to {tmp_path / 'data'}" in caught.value.remedy
    assert "coco-train2017" in caught.value.what
    monkeypatch.delenv("VITA_TRAIN_DATA", raising=False)
    with pytest.raises(UserError) as unnamed:
        fetch(CatalogueSource(name="llava-mix665k"), tmp_path / "out", seed=0)
    assert "VITA_TRAIN_DATA" in unnamed.value.remedy
    with pytest.raises(UserError):
        fetch(CatalogueSource(name="nothing"), tmp_path / "out", seed=0)


def test_a_file_that_was_removed_is_not_taken_for_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"llava/llava_v1_5_mix665k.json": "[]"}
    brought("llava-mix665k", files, tmp_path, monkeypatch)
    (tmp_path / "data" / "llava" / "llava_v1_5_mix665k.json").unlink()
    with pytest.raises(DataError) as caught:
        fetch(CatalogueSource(name="llava-mix665k"), tmp_path / "out", seed=0)
    assert "vita-train data fetch llava-mix665k" in caught.value.remedy


def test_a_recipe_names_a_corpus_of_the_catalogue() -> None:
    source = '{"captions": {"kind": "catalogue", "name": "coco-captions"}}'
    recipe = load_recipe("smoke", [f"data.source={source}"])
    assert recipe.data.source["captions"] == CatalogueSource(name="coco-captions")


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An entry of the user's whose records and pictures are on a server."""
    web = tmp_path / "web"
    (web / "pictures").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(web / "pictures" / "1.png")
    with tarfile.open(web / "pictures.tar", "w") as tar:
        tar.add(web / "pictures" / "1.png", arcname="1.png")
    record = {"id": "1", "set": "pictures", "image": "1.png", "conversations": TURNS}
    (web / "shelf.json").write_text(json.dumps([record]))
    monkeypatch.setenv("VITA_TRAIN_CATALOGUE", str(tmp_path / "catalogue"))
    monkeypatch.delenv("VITA_TRAIN_DATA", raising=False)
    (tmp_path / "catalogue").mkdir()
    with served(web) as url:
        entry = {
            "name": "shelf",
            "title": "Pictures of shelves",
            "task": "caption",
            "adapter": "records",
            "licence": {"name": "CC-BY-4.0"},
            "places": [
                {"kind": "http", "url": f"{url}/shelf.json"},
                {"kind": "http", "url": f"{url}/pictures.tar", "unpack": "pictures"},
            ],
            "records_from": ["shelf.json"],
            "roots": {"pictures": "pictures"},
        }
        (tmp_path / "catalogue" / "shelf.yaml").write_text(json.dumps(entry))
        yield


@pytest.mark.usefixtures("shelf")
def test_a_run_fetches_into_itself_and_may_be_moved(tmp_path: Path) -> None:
    source = CatalogueSource(name="shelf", fetch=True, accept_licence=True)
    assert "Pictures of shelves" in check_catalogue(source)
    fetch(source, tmp_path / "out", seed=0)
    (tmp_path / "out").rename(tmp_path / "moved")
    registry = json.loads((tmp_path / "moved" / "registry.json").read_text())
    split = registry["datasets"]["shelf"]["train"]
    paths = [split["records"], *split["roots"].values()]
    assert not any(Path(path).is_absolute() for path in paths)
    assert (tmp_path / "moved" / split["roots"]["pictures"] / "1.png").is_file()
    (row,) = rows(tmp_path / "moved", "shelf", "train")
    assert row.record.id == "1"


@pytest.mark.usefixtures("shelf")
@pytest.mark.parametrize("same", [True, False])
def test_a_fetch_into_the_run_that_was_ended_goes_on_by_the_same_settings(
    same: bool, tmp_path: Path
) -> None:
    source = CatalogueSource(name="shelf", fetch=True, accept_licence=True)
    out = tmp_path / "out"
    fetch_all({"books": source}, out, seed=0)
    # As if it had been killed before it wrote the last file
    (out / "registry.json").unlink()
    (out / "FETCHED").unlink()
    settings = source.model_dump(mode="json") if same else {"kind": "catalogue", "name": "other"}
    (out / "UNFINISHED").write_text(json.dumps({"books": settings}))
    downloaded = out / "books" / "fetched" / "from before"
    for stray in (downloaded, out / "stray", out / "books" / "stray"):
        stray.touch()
    if same:
        shutil.rmtree(tmp_path / "web")  # what is there is not asked for again
    fetch_all({"books": source}, out, seed=0)
    assert downloaded.exists() == same
    assert not (out / "stray").exists()
    assert not (out / "books" / "stray").exists()
    assert (out / "FETCHED").read_bytes() == b""


@pytest.mark.usefixtures("shelf")
def test_a_named_folder_is_fetched_to_once(tmp_path: Path) -> None:
    source = CatalogueSource(
        name="shelf", folder=str(tmp_path / "data"), fetch=True, accept_licence=True
    )
    fetch(source, tmp_path / "out", seed=0)
    shutil.rmtree(tmp_path / "web")  # what is there is not asked for again
    # Accepted once for the folder
    again = source.model_copy(update={"accept_licence": False})
    assert check_catalogue(again)
    fetch(again, tmp_path / "out", seed=0)
    (row,) = rows(tmp_path / "out", "shelf", "train")
    assert row.images[0].name == "1.png"


@pytest.mark.usefixtures("shelf")
def test_a_licence_is_accepted_by_the_recipe_or_nothing_is_fetched(tmp_path: Path) -> None:
    source = CatalogueSource(name="shelf", folder=str(tmp_path / "data"), fetch=True)
    for work in (lambda: check_catalogue(source), lambda: fetch(source, tmp_path / "out", seed=0)):
        with pytest.raises(UserError) as caught:
            work()
        assert "accept_licence" in caught.value.remedy
    assert not (tmp_path / "data").exists()
