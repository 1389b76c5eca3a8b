"""A finished run is measured from its files alone, and its samples fill the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.helpers.errors import raises_code
from vita_train.errors import UserError
from vita_train.evaluation.asr import recognise
from vita_train.evaluation.measures import measure
from vita_train.evaluation.recogniser import open_recogniser
from vita_train.evaluation.run import evaluate_run
from vita_train.recipe.schema import StorageSpec
from vita_train.report.render import render_report
from vita_train.runs.final import write_final
from vita_train.runs.manifest import Manifest, ModuleRef
from vita_train.runs.run import Run
from vita_train.storage.factory import open_store
from vita_train.weights.newest import load_newest
from vita_train.weights.save import save_modules


@pytest.fixture
def run(world: Any, tmp_path: Path) -> Any:
    """A run whose stages all committed the world's modules."""
    recipe = world.recipe.model_copy(update={"storage": StorageSpec(root=str(tmp_path))})
    store = open_store(str(tmp_path))
    known: dict[str, ModuleRef] = {}
    for stage, spec in recipe.stages.items():
        trained = {name: world.modules[name] for name in spec.trainable}
        for name, paths in save_modules(trained, tmp_path / "saved" / stage).items():
            files = tuple(store.upload(path, f"r/{stage}/final/a/{path.name}") for path in paths)
            known[name] = ModuleRef(stage=stage, files=files)
        write_final(
            store,
            f"r/{stage}",
            Manifest(kind="model", run="r", stage=stage, digest=stage, modules=dict(known)),
        )
    corpus = Run(recipe, "r").corpus_dir
    corpus.parent.mkdir(parents=True)
    corpus.symlink_to(world.corpus.path)
    (tmp_path / "r" / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    return recipe


def test_measures_of_a_run_are_those_of_its_weights(world: Any, run: Any, tmp_path: Path) -> None:
    found = evaluate_run(Run(run, "r"), max_samples=12)
    assert found == measure(world.recipe, world.corpus, world.modules, max_samples=12)
    listed = json.loads((tmp_path / "r" / "evaluate" / "samples.json").read_text())["samples"]
    assert {"textqa", "caption", "speech_qa", "negative", "asr", "tts"} == {
        entry["dataset"] for entry in listed
    }
    for entry in listed:
        for item in entry["media"]:
            assert (tmp_path / "r" / "evaluate" / item["path"]).stat().st_size > 0
    page = render_report(tmp_path / "r").read_text()
    assert page.count("<audio") == sum(
        item["kind"] == "audio" for entry in listed for item in entry["media"]
    )
    assert page.count("<figure") == sum(
        bool(entry["media"]) and all(item["kind"] == "image" for item in entry["media"])
        for entry in listed
    )


def test_a_runs_own_recogniser_judges_what_it_hears(world: Any, run: Any, tmp_path: Path) -> None:
    index = world.corpus.index("asr", "test")
    samples = [index.sample(place) for place in range(0, len(index), 6)]
    clips, waves = [one.load_fbank() for one in samples], [one.load_wave() for one in samples]
    heard = recognise(world.modules, world.corpus.ctc_vocab, clips, device=torch.device("cpu"))
    settings = run.model_dump(mode="json")
    settings["model"]["llm"]["source"] = "/gone"  # a language model is not needed to listen
    (tmp_path / "r" / "recipe.yaml").write_text(yaml.safe_dump(settings))
    judge = open_recogniser(str(tmp_path / "r"))
    assert judge(waves, heard) == [0.0] * len(heard)
    texts = [f"{text} unheard of" for text in heard]
    expected = [2 / len(text.split()) for text in texts]
    assert judge(waves, texts) == pytest.approx(expected)


def test_a_run_without_a_recogniser_is_refused(run: Any, tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for stage in ("2.1a", "2.1b", "2.2", "3.1", "3.2"):
        store.delete([f"r/{stage}/final.json"])
    with raises_code(UserError, "VT-USE-232", str(tmp_path / "r"), "ctc_head"):
        open_recogniser(str(tmp_path / "r"))


def test_a_run_without_a_finished_stage_is_refused(world: Any, tmp_path: Path) -> None:
    recipe = world.recipe.model_copy(update={"storage": StorageSpec(root=str(tmp_path))})
    with raises_code(UserError, "VT-USE-128"):
        load_newest(Run(recipe, "none"), ctc_vocab_size=4)
