"""The five scripts of the Qwen family, one after the other under one root: each starts from what
those before it left, or names the script that is missing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.helpers.errors import raises_code
from vita_train.compat.vita.build import PublicRun, public_run
from vita_train.compat.vita.predecessors import TrainedBefore
from vita_train.compat.vita.scripts import script_words
from vita_train.errors import UserError

#: Script, its folder, and the modules that its stage trains.
ROW = [
    ("pretrain_mlp_qwen", "llava-s1-pretrain_mlp_video", "1.1", ["projector"]),
    ("finetune_qwen", "llava-s2-pretrain_video", "1.2", ["llm", "vision", "projector"]),
    ("finetuneTask_qwen", "llava-s3-finetune_task", "1.3", ["llm", "projector"]),
    ("pretrain_audio_mlp_qwen", "llava-s1-pretrain_audio_mlp", "2.1b", ["audio_adapter"]),
    (
        "finetuneTaskNeg_qwen",
        "llava-s3-finetune_task_neg",
        "2.2",
        ["llm", "projector", "audio_adapter"],
    ),
]


def run_script(name: str, runs: dict[str, TrainedBefore]) -> PublicRun:
    look: Callable[[str], TrainedBefore | None] = runs.get
    return public_run(
        script_words(name), like_public=True, checkpoint=look, exists=lambda path: False
    )


def test_each_script_starts_from_what_those_before_it_left() -> None:
    runs: dict[str, TrainedBefore] = {}
    for script, folder, stage, trained in ROW:
        run = run_script(script, runs)
        assert run.stage == stage
        assert f"{run.recipe.storage.root}/{run.recipe.name}".lower() == f"runs/{folder}".lower()
        modules = dict(run.recipe.weights) | {name: f"runs/{folder}/{stage}" for name in trained}
        runs[f"runs/{folder}"] = TrainedBefore(
            modules, run.recipe.model.llm.source, run.recipe.tokenizer.source
        )
        started = {"llm" in run.recipe.weights, run.recipe.model.llm.source is not None}
        assert started == {True, False}
        assert run.recipe.tokenizer.source == "Qwen/Qwen2.5-7B-Instruct"
    last = run.recipe.weights
    assert last["llm"] == "runs/llava-s3-finetune_task/1.3"
    assert last["vision"] == "runs/llava-s2-pretrain_video/1.2"
    assert last["projector"] == "runs/llava-s3-finetune_task/1.3"
    assert last["audio_adapter"] == "runs/llava-s1-pretrain_audio_mlp/2.1b"


@pytest.mark.parametrize("place", [1, 2, 4])
def test_a_missing_predecessor_is_named_with_folder_and_script(place: int) -> None:
    runs: dict[str, TrainedBefore] = {}
    needed = {1: ROW[0], 2: ROW[1], 4: ROW[3]}[place]
    if place == 4:  # its base is there, and what trains the adapter is not
        modules = {"llm": "runs/llava-s3-finetune_task/1.3"}
        runs["runs/llava-s3-finetune_task"] = TrainedBefore(modules, "Qwen/x", "Qwen/x")
    with raises_code(UserError, "VT-USE-235", needed[1], f"{needed[0]}.sh"):
        run_script(ROW[place][0], runs)
