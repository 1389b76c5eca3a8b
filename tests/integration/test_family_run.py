"""A run of another family through the real steps: prepared, trained, measured, exported, talked
to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.family_world import family_recipe, talk
from vita_train.inference.chat import open_chat
from vita_train.pipeline.steps import evaluate_step, export_step, fetch_step, prepare_step
from vita_train.runs.run import Run
from vita_train.training.stage import run_stage

pytestmark = pytest.mark.timeout(1200)


@pytest.mark.parametrize("family", ["qwen2p5_fo_instruct", "mixtral-8x7b", "nemo", "llama3-8b"])
def test_a_family_from_records_to_a_conversation(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITA_TRAIN_CACHE", str(tmp_path / "cache"))
    registry = talk(tmp_path)
    recipe = family_recipe(
        family, f"data.source.own.registry={registry}", f"storage.root={tmp_path / 'runs'}"
    )
    run = Run(recipe, "mine")
    run.write_recipe()
    fetch_step(run)
    prepare_step(run)
    trained = run_stage(run, "2.2")
    assert trained is not None
    head = family == "qwen2p5_fo_instruct"
    assert {"llm", "audio_encoder", "audio_adapter"} | ({"state_head"} if head else set()) == set(
        trained.modules
    )
    assert trained.metrics["talk.test.state_mark"] >= 0.5
    evaluate_step(run)
    export_step(run)
    for place in (run.dir, run.dir / "export" / "model"):
        chat = open_chat(str(place))
        assert "".join(chat.ask("colour?")) == "red."
        assert not chat.ignored
        told = []
        for number in (0, 1, 2, 3):
            chat.reset()
            list(chat.ask(audios=[tmp_path / f"{number}.wav"]))
            told.append(chat.ignored)
        if head:
            assert told == [False, True, True, False]
