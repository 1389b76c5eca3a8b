"""Records prepared ahead of training, whole, in chunks and merged (A7 to A10 of AuroraCap)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tests.helpers.data_world import recipe, small_world
from tests.helpers.errors import raises_code
from vita_train.cli.main import build_app
from vita_train.data.index.corpus import Corpus
from vita_train.data.prepare.ledger import PrepareLedger
from vita_train.data.prepare.merge import merge_prepared, prepared_below
from vita_train.data.prepare.reuse import take_prepared
from vita_train.data.prepare.run import prepare
from vita_train.data.tools.pretokenise import cut_lines, load_config, prepare_chunks, prepare_whole
from vita_train.errors import DataError, RecipeError, UserError
from vita_train.pipeline.steps import fetch_step, prepare_step
from vita_train.recipe.load import dump_recipe
from vita_train.recipe.schema import Recipe
from vita_train.runs.run import Run

QUIET: list[str] = []


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small world, a record of `hear` among them that cannot be used, and the tokenizer of a
    first preparation."""
    home = tmp_path_factory.mktemp("world")
    registry = small_world(home)
    records = json.loads((home / "hear-train.json").read_text())
    records[4]["audio"] = ["gone.wav"]
    (home / "hear-train.json").write_text(json.dumps(records))
    (home / "hear.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    prepare(settings(), registry, home / "first", progress=QUIET.append)
    return home


def settings(home: Path | None = None, **model: object) -> Recipe:
    """A recipe of the world's data; with its tokenizer where that is there."""
    changes: dict[str, object] = {
        "data": {
            "image": {"max_tiles": 4},
            "video": {"max_frames": 4},
            "audio": {"store_features": True},
            "max_reject_share": 0.5,
        }
    }
    if home is not None:
        changes["tokenizer"] = {"source": str(home / "first" / "tokenizer")}
    made = recipe(**changes).model_dump(mode="json")
    if home is not None:
        source = {"own": {"kind": "records", "registry": str(home / "registry.json")}}
        made["data"]["source"] = source
    made["stages"]["1.3"]["batch"] |= model
    return Recipe.model_validate(made)


def same_rows(one: Corpus, other: Corpus, dataset: str) -> None:
    left, right = one.index(dataset, "train"), other.index(dataset, "train")
    assert left.digest == right.digest
    assert len(left) == len(right) > 0
    for place in range(len(left)):
        a, b = left.sample(place), right.sample(place)
        assert (a.record_id, a.ids.tolist(), a.spans, a.turns) == (
            b.record_id,
            b.ids.tolist(),
            b.spans,
            b.turns,
        )
        assert [str(path.resolve()) for path in a.audios] == [str(path) for path in b.audios]
        for clip in range(len(a.audios)):
            assert torch.equal(a.load_fbank(clip), b.load_fbank(clip))


def test_a8_a9_chunks_merged_are_the_whole(world: Path, tmp_path: Path) -> None:
    made = settings(world)
    whole = prepare_whole(made, tmp_path / "whole", progress=QUIET.append)
    chunks = prepare_chunks(
        made,
        world / "hear.jsonl",
        tmp_path / "lines",
        tmp_path / "chunks",
        dataset="hear",
        lines=5,
        progress=QUIET.append,
    )
    assert [path.name for path in chunks] == [f"data_part_0000{number}" for number in range(3)]
    counts = [len(path.read_text().splitlines()) for path in sorted((tmp_path / "lines").iterdir())]
    assert counts == [5, 5, 2]
    assert b"".join(path.read_bytes() for path in sorted((tmp_path / "lines").iterdir())) == (
        (world / "hear.jsonl").read_bytes()
    )
    merged = merge_prepared(prepared_below(tmp_path / "chunks"), tmp_path / "merged")
    same_rows(Corpus.open(tmp_path / "whole"), Corpus.open(tmp_path / "merged"), "hear")
    (wanted,) = [s for s in whole.splits if (s.dataset, s.split) == ("hear", "train")]
    assert merged.splits == [wanted]
    assert (wanted.records, wanted.used, wanted.reasons) == (12, 11, {"missing file": 1})
    vocab = (tmp_path / "merged" / "ctc_vocab.json").read_text()
    assert vocab == (tmp_path / "whole" / "ctc_vocab.json").read_text()


def test_a8_a_stopped_run_goes_on_at_its_chunk(world: Path, tmp_path: Path) -> None:
    said: list[str] = []

    def stop(line: str) -> None:
        said.append(line)
        if sum("records ready" in each for each in said) == 1 and "tokenizer of" in line:
            raise KeyboardInterrupt

    def run(progress: object) -> None:
        prepare_chunks(
            settings(world),
            world / "hear.jsonl",
            tmp_path / "lines",
            tmp_path / "chunks",
            dataset="hear",
            lines=5,
            progress=progress,  # type: ignore[arg-type]
        )

    with pytest.raises(KeyboardInterrupt):
        run(stop)
    assert [path.name for path in prepared_below(tmp_path / "chunks")] == ["data_part_00000"]
    again: list[str] = []
    run(again.append)
    assert sum("is up to date" in line for line in again) == 1
    merged = merge_prepared(prepared_below(tmp_path / "chunks"), tmp_path / "merged")
    same_rows(Corpus.open(world / "first"), Corpus.open(tmp_path / "merged"), "hear")
    assert merged.records == 12


def test_a9_parts_are_taken_by_number_and_only_together_if_made_alike(
    world: Path, tmp_path: Path
) -> None:
    for name, length in (("part_2", 128), ("part_10", 128), ("part_11", 64)):
        prepare_whole(settings(world, seq_len=length), tmp_path / "in" / name)
    found = prepared_below(tmp_path / "in")
    assert [path.name for path in found] == ["part_2", "part_10", "part_11"]
    with raises_code(DataError, "VT-DATA-144", "part_11", "the rows of look"):
        merge_prepared(found, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    twice = merge_prepared(found[:2], tmp_path / "out")
    assert twice.records == 2 * PrepareLedger.load(found[0] / "ledger.json").records
    with raises_code(DataError, "VT-DATA-142", str(tmp_path / "out")):
        merge_prepared(found[:2], tmp_path / "out")


def test_a9_a_damaged_part_is_one_error_and_nothing_is_written(world: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        prepare_whole(settings(world), tmp_path / "in" / name, progress=QUIET.append)
    for name in ("hear/train/index.arrow", "hear/train/meta.json", "meta.json", "ledger.json"):
        path = tmp_path / "in" / "b" / name
        kept = path.read_bytes()
        for cut in (b"", kept[: len(kept) // 2], kept[:-9] + b"\0" + kept[-8:]):
            path.write_bytes(cut)
            with pytest.raises(DataError) as caught:
                merge_prepared(prepared_below(tmp_path / "in"), tmp_path / "out")
            assert caught.value.remedy
            assert sorted(item.name for item in tmp_path.iterdir()) == ["in"]
        path.write_bytes(kept)


def test_folders_that_cannot_be_made_are_one_error(world: Path, tmp_path: Path) -> None:
    with raises_code(UserError, "VT-USE-308", "/proc/nowhere"):
        prepare_whole(settings(world), Path("/proc/nowhere/here"))


def test_a8_chunks_of_another_file_are_not_merged_with_these(tmp_path: Path) -> None:
    (tmp_path / "long").write_text("{}\n" * 7)
    (tmp_path / "short").write_text("{}\n" * 2)
    assert len(cut_lines(tmp_path / "long", tmp_path / "out", 3)) == 3
    with raises_code(DataError, "VT-DATA-152", "data_part_00001.jsonl"):
        cut_lines(tmp_path / "short", tmp_path / "out", 3)


def test_a7_a10_a_run_takes_what_is_prepared(world: Path, tmp_path: Path) -> None:
    prepare_whole(settings(world), tmp_path / "whole", progress=QUIET.append)
    made = settings(world).model_dump(mode="json")
    made["data"] |= {"source": {}, "prepared": str(tmp_path / "whole")}
    made["storage"]["root"] = str(tmp_path / "runs")
    run = Run(Recipe.model_validate(made), "mine")
    for step in (fetch_step, prepare_step):
        step(run)
    manifest = run.final("prepare")
    assert manifest is not None
    assert (
        manifest.metrics["used"]
        == Corpus.open(run.corpus_dir).index("look", "train").__len__() + 41 - 13
    )
    taken = Corpus.open(run.corpus_dir)
    same_rows(Corpus.open(tmp_path / "whole"), taken, "hear")
    assert taken.index("look", "train").sample(0).load_tiles().shape[0] == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"data": {"template": "plain"}}, "template"),
        ({"stages": {"1.3": {"batch": {"seq_len": 64}}}}, "budgets.look"),
        ({"data": {"image": {"max_tiles": 2}}}, "data.image.max_tiles is 4 there and 2"),
        ({"tokenizer": {"source": "elsewhere"}}, "tokenizer.source"),
    ],
)
def test_a10_what_was_prepared_otherwise_is_refused(
    world: Path, tmp_path: Path, change: dict[str, object], told: str
) -> None:
    def merged(value: dict[str, object], other: dict[str, object]) -> dict[str, object]:
        for key, inner in other.items():
            there = value.get(key)
            both = isinstance(there, dict) and isinstance(inner, dict)
            value[key] = merged(there, inner) if both else inner  # type: ignore[arg-type]
        return value

    prepare_whole(settings(world), tmp_path / "whole", progress=QUIET.append)
    changed = Recipe.model_validate(merged(settings(world).model_dump(mode="json"), change))
    with raises_code(DataError, "VT-DATA-149", told):
        take_prepared(changed, tmp_path / "whole", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a10_a_tokenizer_that_became_another_is_refused(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "first" / "tokenizer", tmp_path / "tokenizer")
    made = settings(world).model_dump(mode="json")
    made["tokenizer"]["source"] = str(tmp_path / "tokenizer")
    named = Recipe.model_validate(made)
    prepare_whole(named, tmp_path / "whole", progress=QUIET.append)
    take_prepared(named, tmp_path / "whole", tmp_path / "out")
    path = tmp_path / "tokenizer" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": 7}))
    with raises_code(DataError, "VT-DATA-149", "tokenizer_config.json"):
        take_prepared(named, tmp_path / "whole", tmp_path / "other")


def test_a8_chunks_need_one_tokenizer_and_one_dataset(world: Path, tmp_path: Path) -> None:
    folders = (world / "hear.jsonl", tmp_path / "lines", tmp_path / "chunks")
    with raises_code(RecipeError, "VT-RECIPE-098", "tokenizer.source"):
        prepare_chunks(settings(), *folders)
    with raises_code(UserError, "VT-USE-306", "hear, look, talk"):
        prepare_chunks(settings(world), *folders)
    with raises_code(UserError, "VT-USE-307", "'other'"):
        prepare_chunks(settings(world), *folders, dataset="other")


def test_a7_a8_a9_the_commands_have_the_public_names(world: Path, tmp_path: Path) -> None:
    config = tmp_path / "recipe.yaml"
    config.write_text(dump_recipe(settings(world)))
    words = ["data", "tools"]

    def told(*more: str) -> str:
        done = CliRunner().invoke(build_app(), [*words, *more], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    whole = told(
        "process_untokenized_llava_data", str(config), "--save-folder", str(tmp_path / "w")
    )
    assert "41 of 42 records" in whole
    assert '"conversation"' in whole
    told(
        "process_untokenized_large_data",
        str(config),
        *("--save-folder", str(tmp_path / "c"), "--input-file", str(world / "hear.jsonl")),
        *("--jsonl-output-folder", str(tmp_path / "l"), "--dataset", "hear", "--lines", "5"),
    )
    for name, out in (("merge_sharded_data", "m"), ("merge_trunck", "n")):
        text = told(
            name, "--data_folder", str(tmp_path / "c"), "--save_folder", str(tmp_path / out)
        )
        assert "11 of 12 records" in text
        assert '"hear-0"' in text


def test_a7_a_python_configuration_is_refused_with_what_it_says_in_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "config.py").write_text(
        "import os\nllm_name_or_path = 'lmsys/vicuna'\nmax_length = int(2048)\nother = 1\n"
        "open('ran', 'w')\n"
    )
    with raises_code(UserError, "VT-USE-304") as caught:
        load_config(str(tmp_path / "config.py"), [])
    text = str(caught.value)
    assert "llm_name_or_path = 'lmsys/vicuna' is model.llm.source" in text
    assert "max_length = int(2048) is stages.STAGE.batch.seq_len" in text
    assert "other" not in text
