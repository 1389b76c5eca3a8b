"""The written world: same bytes for the same seed, splits without leaks, records that read back."""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from tests.helpers.errors import raises_code
from vita_train.data.sources.fetch import fetch
from vita_train.data.sources.reading import Row, read_records
from vita_train.data.sources.registry import load_registry, resolve
from vita_train.data.sources.synth import render as rendering
from vita_train.data.sources.synth.leaks import check_leaks
from vita_train.data.sources.synth.sentences import asr_families, tts_families, vocabulary
from vita_train.data.sources.synth.splits import DEV, TEST, TRAIN, Splits, covering, rng_for
from vita_train.data.sources.synth.voices import ASSISTANT, TEST_VOICES, TRAIN_VOICES, speak
from vita_train.errors import DataError, UserError
from vita_train.recipe.sources import RecordsSource, SynthSource

pytest.importorskip("espeakng_loader")
SMALL = SynthSource(scale=0.005, test_size=6)
DATASETS = {
    "recall",
    "lookup",
    "caption",
    "textqa",
    "instruct",
    "dialogue",
    "vqa",
    "multi_image",
    "video",
    "asr",
    "speech_qa",
    "negative",
    "tts",
}


def digests(folder: Path) -> dict[str, str]:
    """Sha256 of every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small world, rendered in blocks of 100 clips by one process at a time."""
    out = tmp_path_factory.mktemp("world") / "raw"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendering, "_CLIPS_PER_BLOCK", 100)
        fetch(SMALL, out, seed=0, workers=1)
    return out


def records(world: Path, dataset: str, split: str) -> list[dict]:
    """The raw records of one split."""
    return json.loads((world / f"records/{dataset}.{split}.json").read_text(encoding="utf-8"))


def facts(world: Path) -> dict[str, dict]:
    """What is known of each media file."""
    return {
        fact["file"]: fact
        for fact in map(json.loads, (world / "facts.jsonl").read_text().splitlines())
    }


def test_same_seed_same_bytes_whatever_the_workers(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendering, "_CLIPS_PER_BLOCK", 100)
    fetch(SMALL, tmp_path / "again", seed=0, workers=3)
    assert digests(tmp_path / "again") == digests(world)


def test_every_record_reads_back(world: Path) -> None:
    base = world / "registry.json"
    registry = load_registry(base)
    assert set(registry.datasets) == DATASETS
    for dataset, splits in ((name, entry.splits) for name, entry in registry.datasets.items()):
        assert {"train", "dev"} <= set(splits)
        tested = dataset not in {"recall", "lookup"}
        assert (len(splits) > 2) == tested, "exercises alone are without a test"
        for split, source in splits.items():
            roots = {key: resolve(base, root) for key, root in source.roots.items()}
            rows = list(read_records(resolve(base, source.records), roots))
            assert len(rows) >= (6 if split != "train" else 8)
            for row in rows:
                assert isinstance(row, Row), (dataset, split, row)
                for ref in (*row.images, *row.videos, *row.audios):
                    assert ref.path(roots).stat().st_size > 0
    assert {"test_seen", "test_unseen"} < set(registry.datasets["vqa"].splits)
    assert {"test_sentences", "test_voices"} < set(registry.datasets["asr"].splits)


def test_media_formats(world: Path) -> None:
    for path in sorted((world / "media").rglob("*.wav")):
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
        assert 0.3 < info.duration < 8
    for path in sorted((world / "media/video").rglob("*.mp4"))[:5]:
        with av.open(str(path)) as film:
            frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
            assert film.streams.video[0].average_rate == 1
        assert len(frames) == 4
        assert frames[0].shape == (64, 64, 3)


def test_every_spoken_word_survives_in_training(world: Path) -> None:
    for dataset, families in (("asr", asr_families()), ("tts", tts_families())):
        trained = {
            word
            for record in records(world, dataset, "train")
            for word in record["conversations"][1]["value"].split()
        }
        assert trained == set(vocabulary(families))
    assert set(vocabulary(tts_families())) <= set(vocabulary(asr_families()))


def test_typed_questions_pair_with_spoken_ones(world: Path) -> None:
    known = facts(world)
    spoken, typed = records(world, "speech_qa", "test"), records(world, "speech_qa", "test_typed")
    assert len(spoken) == len(typed)
    for one, other in zip(spoken, typed, strict=True):
        assert "audio" not in other
        assert one.get("image") == other.get("image")
        texts = iter(known[path]["text"] for path in one["audio"])
        for heard, written in zip(one["conversations"], other["conversations"], strict=True):
            if heard["from"] == "gpt":
                assert heard == written
            else:
                plain = written["value"].rsplit("\n", 1)[-1].rstrip("?.")
                assert next(texts) == plain.replace(".", "")


def test_negative_records_point_at_their_reply(world: Path) -> None:
    lengths = set()
    for record in records(world, "negative", "train") + records(world, "negative", "test"):
        place = record["inserted_id"]
        assert record["conversations"][place]["value"] == "that was not for me."
        assert sum(turn["value"] == "that was not for me." for turn in record["conversations"]) == 1
        lengths.add(len(record["conversations"]))
    assert lengths == {2, 4}


def test_voices_and_pairs_are_held_out(world: Path) -> None:
    known = facts(world)
    voices = {
        name: {
            known[path]["voice"]
            for record in records(world, "asr", name)
            for path in record["audio"]
        }
        for name in ("train", "test_sentences", "test_voices")
    }
    assert voices["test_voices"] <= {voice.name for voice in TEST_VOICES}
    assert not voices["test_voices"] & voices["train"]
    assert voices["test_sentences"] <= {voice.name for voice in TRAIN_VOICES}
    said = {
        (fact["voice"], fact["rate"], fact["pitch"])
        for path, fact in known.items()
        if path.startswith("tts/")
    }
    assert said == {(ASSISTANT.name, ASSISTANT.rate, ASSISTANT.pitch)}


def test_leak_check_is_clean_and_finds_what_is_planted(world: Path, tmp_path: Path) -> None:
    base = world / "registry.json"
    registry = load_registry(base)
    assert check_leaks(registry, base) == []

    def plant(dataset: str, split: str, rows: list[dict]) -> list[str]:
        path = tmp_path / f"{dataset}.{split}.json"
        path.write_text(json.dumps(rows))
        changed = registry.model_copy(deep=True)
        source = changed.datasets[dataset].splits[split]
        changed.datasets[dataset].splits[split] = source.model_copy(update={"records": str(path)})
        return check_leaks(changed, base)

    question = records(world, "textqa", "test")[0]
    assert any("question" in line for line in plant("textqa", "train", [question]))
    clip = records(world, "asr", "test_voices")[0]
    found = plant("asr", "train", [clip])
    assert any("voice" in line for line in found)
    assert any("sentence" in line for line in found)
    assert any("media" in line for line in found)
    echo = {
        "id": "x",
        "conversations": [
            {"from": "human", "value": f"Repeat: {clip['conversations'][1]['value']}"},
            {"from": "gpt", "value": clip["conversations"][1]["value"]},
        ],
    }
    assert any("sentence" in line for line in plant("instruct", "train", [echo]))
    seen = records(world, "caption", "train")[0]
    assert any("no combination" in line for line in plant("caption", "test_unseen", [seen]))


def test_split_of_a_scene_is_that_of_its_sentence() -> None:
    splits = Splits.cut(3)
    sentences = [text for family in asr_families() for text in family.sentences]
    shares = {
        name: sum(splits.of_sentence(text) == name for text in sentences) / len(sentences)
        for name in (TRAIN, DEV, TEST)
    }
    assert 0.7 < shares[TRAIN] < 0.9
    assert shares[TEST] > shares[DEV] > 0.04
    assert splits.of_scene("a big red circle on the left.") == splits.of_sentence(
        "a big red circle on the left"
    )
    assert covering(["a b", "b c", "a", "c"]) == ["a b", "b c"]
    drawn = splits.draw_sentences(asr_families(), TEST, 300, rng_for(3, "x"))
    assert {splits.of_sentence(text) for text in drawn} == {TEST}


def test_voices_are_audibly_distinct() -> None:
    from vita_train.data.sources.synth.espeak import Synthesiser

    synthesiser = Synthesiser()
    spectra = {}
    for voice in (*TRAIN_VOICES, *TEST_VOICES):
        wave = speak(synthesiser, "the small yellow triangle is on the right", voice)
        assert np.abs(wave).max() == pytest.approx(0.6, abs=1e-3)
        frames = np.lib.stride_tricks.sliding_window_view(wave, 512)[::256] * np.hanning(512)
        power = np.abs(np.fft.rfft(frames)) ** 2
        power = power[power.sum(1) > 1e-3 * power.sum(1).max()]
        edges = np.geomspace(4, 257, 20).astype(int)
        bands = [
            np.log(power[:, low:high].sum(1) + 1e-6).mean()
            for low, high in itertools.pairwise(edges)
        ]
        spectra[voice.name] = np.array(bands) - np.mean(bands)
    names = list(spectra)
    closest = min(
        float(np.sqrt(np.mean((spectra[a] - spectra[b]) ** 2)))
        for a in names
        for b in names
        if a < b
    )
    assert closest > 0.25


@pytest.mark.parametrize("name", ["thesis.txt", "registry.json"])
def test_a_folder_that_is_not_ours_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with raises_code(UserError, "VT-USE-037"):
        fetch(SMALL, tmp_path, seed=0)
    assert (tmp_path / name).read_text() == "precious"


def test_missing_synthesiser_is_one_clear_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with raises_code(UserError, "VT-USE-040", "vita-train[demo]"):
        fetch(SMALL, tmp_path / "out", seed=0)
    assert not (tmp_path / "out/registry.json").exists()


def test_unfinished_attempt_is_replaced_and_records_are_adopted(
    world: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "UNFINISHED").touch()
    (out / "stale.json").write_text("{}")
    adopted = fetch(RecordsSource(registry=str(world / "registry.json")), out, seed=0)
    assert not (out / "stale.json").exists()
    assert not (out / "UNFINISHED").exists()
    assert load_registry(out / "registry.json") == adopted
    assert (
        Path(adopted.datasets["asr"].splits["train"].records)
        == (world / "records/asr.train.json").resolve()
    )


def test_records_with_a_missing_file_name_the_key(tmp_path: Path) -> None:
    registry = {
        "format": "vita-train/registry/v1",
        "datasets": {"mine": {"task": "qa", "train": {"records": "no.json"}}},
    }
    (tmp_path / "registry.json").write_text(json.dumps(registry))
    with raises_code(DataError, "VT-DATA-021", "datasets.mine.train.records"):
        fetch(RecordsSource(registry=str(tmp_path / "registry.json")), tmp_path / "out", seed=0)
    assert not (tmp_path / "out/registry.json").exists()
