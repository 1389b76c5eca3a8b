"""Preparation: everything is used or listed, the result is whole or absent, and depends on the
inputs alone."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.data_world import audio_file, recipe, small_world, turns, write_registry
from tests.helpers.errors import raises_code
from vita_train.data.check.run import check
from vita_train.data.index.corpus import Corpus
from vita_train.data.prepare.ledger import PrepareLedger
from vita_train.data.prepare.run import prepare
from vita_train.data.sources.texts import RowError, read_texts
from vita_train.errors import DataError, RecipeError

QUIET: list[str] = []


def digests(out: Path) -> dict[str, str]:
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def features(share: float = 0.0) -> dict[str, Any]:
    return {
        "image": {"max_tiles": 4},
        "video": {"max_frames": 4},
        "audio": {"store_features": True},
        "max_reject_share": share,
    }


def test_the_ledger_balances_and_names_every_split(corpus: Corpus) -> None:
    ledger = PrepareLedger.load(corpus.path / "ledger.json")
    assert (ledger.records, ledger.used, ledger.rejected) == (42, 42, 0)
    for split in ledger.splits:
        index = corpus.index(split.dataset, split.split)
        assert split.used == len(index)
        assert split.tokens == index.tokens.sum()
        assert split.supervised == sum(
            len(index.sample(place).labels[index.sample(place).labels >= 0])
            for place in range(len(index))
        )


def test_workers_do_not_change_a_byte(registry: Path, tmp_path: Path) -> None:
    made = recipe(data=features())
    prepare(made, registry, tmp_path / "one", progress=QUIET.append)
    prepare(made, registry, tmp_path / "two", workers=2, progress=QUIET.append)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_rejected_rows_are_listed_and_counted(tmp_path: Path) -> None:
    registry = small_world(tmp_path, 4)
    content = (tmp_path / "pics" / "p1.jpg").read_bytes()
    (tmp_path / "pics" / "p1.jpg").write_bytes(content[: len(content) * 3 // 4])
    (tmp_path / "sounds" / "s2.wav").unlink()
    audio_file(tmp_path / "sounds" / "s3.wav", 0.01)
    rows = json.loads((tmp_path / "talk-train.json").read_text())
    rows[0]["surprise"] = 1
    rows[1]["conversations"] = turns("a", "word " * 400)
    (tmp_path / "talk-train.json").write_text(json.dumps(rows))
    out = tmp_path / "corpus"
    ledger = prepare(recipe(data=features(0.9)), registry, out, progress=QUIET.append)
    lines = [json.loads(line) for line in (out / "rejects.jsonl").read_text().splitlines()]
    found = {
        (line["dataset"], line["split"], line["row"], line["id"], line["reason"]) for line in lines
    }
    assert found == {
        ("hear", "train", 2, "hear-2", "missing file"),
        ("hear", "train", 3, "hear-3", "audio too short"),
        ("look", "dev", 1, "look-1", "truncated image"),
        ("look", "train", 1, "look-1", "truncated image"),
        ("talk", "train", 0, "talk-0", "unknown key"),
        ("talk", "train", 1, "talk-1", "too long"),
    }
    assert ledger.records == ledger.used + ledger.rejected == 4 + 4 + 5 + 2 + 3
    corpus = Corpus.open(out)
    assert [corpus.index("talk", "train").sample(place).record_id for place in range(2)] == [
        "talk-2",
        "talk-3",
    ]
    stored = corpus.index("hear", "train").sample(1)
    assert stored.record_id == "hear-1"
    assert np.abs(stored.load_fbank().numpy()).max() > 1


def test_a_transcript_that_ctc_cannot_align_is_rejected(tmp_path: Path) -> None:
    registry = small_world(tmp_path, 4)
    rows = json.loads((tmp_path / "hear-train.json").read_text())
    for row, said in (
        (2, "a" * 8),
        (3, "ab" * 5 + "a"),
    ):  # equal neighbours need a blank between them
        audio_file(tmp_path / "sounds" / f"s{row}.wav", 0.5)  # 11 frames
        rows[row]["conversations"] = turns("<audio>\nwrite it down.", said)
    (tmp_path / "hear-train.json").write_text(json.dumps(rows))
    out = tmp_path / "corpus"
    prepare(recipe(data=features(0.9)), registry, out, progress=QUIET.append)
    lines = [
        json.loads(line)
        for line in (out / "rejects.jsonl").read_text().splitlines()
        if "hear-" in line
    ]
    assert [(line["split"], line["id"], line["reason"]) for line in lines] == [
        ("train", "hear-2", "transcript too long")
    ]
    assert "needs 15 encoder frames by char, audio:s2.wav gives 11" in lines[0]["detail"]


def test_rows_of_the_prompt_are_counted_for_every_clip(tmp_path: Path) -> None:
    registry, plain = small_world(tmp_path, 2), recipe()
    prompted = recipe(model=plain.model.model_dump() | {"audio_adapter": {"prompt_tokens": 3}})
    linear = recipe(model=plain.model.model_dump() | {"audio_adapter": {"kind": "linear"}})
    found = []
    for place, made in enumerate((plain, prompted, linear)):
        prepare(made, registry, tmp_path / str(place), progress=QUIET.append)
        found.append(Corpus.open(tmp_path / str(place)).index("hear", "train").sample(0))
    assert [sample.tokens - found[0].tokens for sample in found] == [0, 3, 9]
    assert [sample.runs.tolist() for sample in found] == [
        [9],
        [12],
        [18],
    ]  # 78 frames, 18 of the encoder


def test_too_many_rejects_stop_preparation_and_stay_listed(tmp_path: Path) -> None:
    registry = small_world(tmp_path, 4)
    (tmp_path / "pics" / "p1.jpg").unlink()
    out = tmp_path / "corpus"
    with raises_code(DataError, "VT-DATA-015", "look/dev", "look-1"):
        prepare(recipe(), registry, out, progress=QUIET.append)
    assert not out.exists()
    assert not out.with_name("corpus.partial").exists()
    assert len((tmp_path / "corpus.rejects.jsonl").read_text().splitlines()) == 2


def test_an_old_corpus_survives_a_failed_preparation(tmp_path: Path) -> None:
    registry = small_world(tmp_path, 4)
    out = tmp_path / "corpus"
    prepare(recipe(), registry, out, progress=QUIET.append)
    before = digests(out)
    (tmp_path / "hear-train.json").write_text("[{")
    with raises_code(DataError, "VT-DATA-025"):
        prepare(recipe(), registry, out, progress=QUIET.append)
    assert digests(out) == before


@pytest.mark.parametrize("place", ["out", "out.partial", "out.parts"])
def test_nothing_but_a_corpus_is_replaced(tmp_path: Path, registry: Path, place: str) -> None:
    precious = tmp_path / place / "photos" / "a.jpg"
    precious.parent.mkdir(parents=True)
    precious.write_bytes(b"precious")
    with raises_code(DataError, "VT-DATA-130", place):
        prepare(recipe(), registry, tmp_path / "out", force=True)
    assert precious.read_bytes() == b"precious"


def test_a_place_that_cannot_be_made_is_an_error_of_ours(registry: Path) -> None:
    with raises_code(DataError, "VT-DATA-131", "/proc/none"):
        prepare(recipe(), registry, Path("/proc/none"))


def test_the_same_inputs_are_prepared_once(tmp_path: Path) -> None:
    registry = small_world(tmp_path, 4)
    out = tmp_path / "corpus"
    first = prepare(recipe(), registry, out, progress=QUIET.append)
    stamp = (out / "meta.json").stat().st_mtime_ns
    assert prepare(recipe(), registry, out, progress=QUIET.append) == first
    assert (out / "meta.json").stat().st_mtime_ns == stamp
    changed = prepare(
        recipe(data={**features(), "state_mode": "none"}), registry, out, progress=QUIET.append
    )
    assert changed.digest != first.digest
    assert changed.splits[0].supervised < first.splits[0].supervised


def test_media_that_were_mended_are_read_again_when_forced(tmp_path: Path) -> None:
    registry, out = small_world(tmp_path, 4), tmp_path / "corpus"
    picture, settings = tmp_path / "pics" / "p1.jpg", recipe(data=features(0.9))
    content = picture.read_bytes()
    picture.write_bytes(content[: len(content) * 3 // 4])
    first = prepare(settings, registry, out, progress=QUIET.append)
    picture.write_bytes(content)
    assert prepare(settings, registry, out, progress=QUIET.append) == first
    mended = prepare(settings, registry, out, force=True, progress=QUIET.append)
    assert (first.rejected, mended.rejected) == (2, 0)
    assert (out / "rejects.jsonl").read_text() == ""


def test_tokenizer_and_units_come_from_training_text_alone(tmp_path: Path) -> None:
    registry = small_world(tmp_path, 4)
    before = recipe(model={**recipe().model.model_dump(), "ctc_head": {"vocab": "word"}})
    prepare(before, registry, tmp_path / "one", progress=QUIET.append)
    rows = json.loads((tmp_path / "hear-test.json").read_text())
    for row in rows:
        row["conversations"][1]["value"] = "zebra " * 5
    (tmp_path / "hear-test.json").write_text(json.dumps(rows))
    prepare(before, registry, tmp_path / "two", progress=QUIET.append)
    for name in ("tokenizer/tokenizer.json", "ctc_vocab.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    units = Corpus.open(tmp_path / "two").ctc_vocab
    assert units.names == ("<blank>", "<unk>", "blue", "green", "one", "red", "the", "yellow")
    assert units.encode("The RED, zebra!") == [6, 5, 1]
    assert units.decode([0, 6, 0, 5, 1]) == "the red <unk>"


def test_records_are_parsed_once_where_the_tokenizer_is_given(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large corpus takes hours to parse: units and rows come from the same pass."""
    prepare(recipe(), registry, tmp_path / "one", progress=QUIET.append)
    made = recipe()
    made = made.model_copy(
        update={
            "tokenizer": made.tokenizer.model_copy(
                update={"source": str(tmp_path / "one" / "tokenizer")}
            )
        }
    )
    parsed: Counter[str] = Counter()

    def counted(path: Path, start: int = 0) -> Iterator[str | RowError]:
        parsed[path.name] += 1
        return read_texts(path, start)

    monkeypatch.setattr("vita_train.data.sources.source.read_texts", counted)
    prepare(made, registry, tmp_path / "two", progress=QUIET.append)
    assert parsed
    assert set(parsed.values()) == {1}
    one, two = (tmp_path / name / "ctc_vocab.json" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_limits_come_from_the_stages_that_pack_the_dataset(tmp_path: Path) -> None:
    registry = write_registry(
        tmp_path,
        {
            "short": {"train": [{"conversations": turns("a", "b " * 60)}]},
            "long": {"train": [{"conversations": turns("a", "b " * 60)}]},
        },
    )
    stages = {
        "1.2": {
            "objective": "next_token",
            "data": {"long": 1.0},
            "trainable": {"llm": 1e-3},
            "steps": 1,
            "batch": {"seq_len": 256},
        },
        "1.3": {
            "objective": "next_token",
            "data": {"short": 1.0},
            "trainable": {"llm": 1e-3},
            "steps": 1,
            "batch": {"seq_len": 48},
        },
    }
    with raises_code(DataError, "VT-DATA-015", "short/train", "stages.1.3.batch", "48"):
        prepare(recipe(stages=stages), registry, tmp_path / "corpus", progress=QUIET.append)


def test_a_stage_without_data_is_refused_first(registry: Path, tmp_path: Path) -> None:
    stages = {
        "1.1": {
            "objective": "next_token",
            "data": {"nothing": 1.0},
            "trainable": {"llm": 1e-3},
            "steps": 1,
        }
    }
    with raises_code(DataError, "VT-DATA-014", "'nothing'"):
        prepare(recipe(stages=stages), registry, tmp_path / "corpus", progress=QUIET.append)


def test_a_tokenizer_larger_than_the_model_is_refused(registry: Path, tmp_path: Path) -> None:
    model = recipe().model.model_dump()
    model["llm"]["vocab_size"] = 300
    with raises_code(RecipeError, "VT-RECIPE-005", "300"):
        prepare(recipe(model=model), registry, tmp_path / "corpus", progress=QUIET.append)


@pytest.mark.parametrize(
    ("content", "code", "fact"),
    [
        (None, "VT-DATA-026", ""),
        ("{", "VT-DATA-029", ""),
        ("[]", "VT-DATA-028", "vita-train/registry/v1"),
        ('{"datasets": {"a": {"train": {"roots": {}}}}}', "VT-DATA-027", "datasets.a.task"),
        ('{"datasets": {}, "extra": 1}', "VT-DATA-028", "extra"),
        ('{"datasets": {"../a": {}}}', "VT-DATA-027", "datasets.../a.task"),
    ],
)
def test_registries_that_are_none(
    tmp_path: Path, content: str | None, code: str, fact: str
) -> None:
    path = tmp_path / "registry.json"
    if content is not None:
        path.write_text(content)
    with raises_code(DataError, code, str(path), fact):
        prepare(recipe(), path, tmp_path / "corpus", progress=QUIET.append)


def test_checking_agrees_with_preparing_and_writes_nothing(tmp_path: Path) -> None:
    registry = small_world(tmp_path, 4)
    (tmp_path / "films" / "f.mp4").write_bytes(b"no video")
    before = sorted(tmp_path.rglob("*"))
    report = check(registry, recipe(data=features(0.5)), progress=QUIET.append)
    assert report.ok
    assert [
        (dataset, split, reject.id, reject.reason) for dataset, split, reject in report.rejects
    ] == [("look", "train", "film", "unreadable video")]
    assert not check(registry, recipe(), progress=QUIET.append).ok
    assert sorted(tmp_path.rglob("*")) == before
    prepared = prepare(
        recipe(data=features(0.5)), registry, tmp_path / "corpus", progress=QUIET.append
    )
    counts = [split.model_copy(update={"digest": ""}) for split in prepared.splits]
    assert counts == report.ledger.splits


def test_rows_keep_their_digest_when_only_the_budget_of_a_stage_changes(tmp_path: Path) -> None:
    registry = small_world(tmp_path, 4)
    made = recipe(data=features())
    stage = made.stages["1.3"]
    longer = made.model_copy(
        update={
            "stages": {
                **made.stages,
                "1.3": stage.model_copy(
                    update={"batch": stage.batch.model_copy(update={"seq_len": 256})}
                ),
            }
        }
    )
    first, second = (
        prepare(each, registry, tmp_path / name, progress=QUIET.append)
        for each, name in ((made, "one"), (longer, "two"))
    )
    assert first.digest != second.digest
    assert first.splits == second.splits
    audio_file(tmp_path / "sounds" / "s3.wav", 0.95, seed=99)  # as long as before, another audio
    third = prepare(longer, registry, tmp_path / "three", progress=QUIET.append)
    changed = {
        split.dataset
        for split, before in zip(third.splits, second.splits, strict=True)
        if split.digest != before.digest
    }
    assert changed == {"hear"}
