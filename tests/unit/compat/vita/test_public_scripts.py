"""The 17 public launch scripts as recipes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.errors import raises_code
from vita_train.compat.vita.document import document
from vita_train.compat.vita.parse import parse_arguments
from vita_train.compat.vita.scripts import (
    SCRIPTS,
    describe_scripts,
    script_name,
    script_run,
    script_words,
)
from vita_train.errors import UserError
from vita_train.recipe.aliases import STAGE_ALIASES
from vita_train.recipe.check import check_recipe
from vita_train.recipe.load import dump_recipe, load_recipe

#: Rate, batch, accumulation, nodes, processes, length, steps between saves, kept, workers.
FIGURES: dict[str, tuple[float, int, int, int, int, int, int, int, int]] = {
    "pretrain_mlp": (5e-4, 8, 2, 1, 8, 6200, 500, 1, 4),
    "pretrain_mlp_nodes": (5e-4, 8, 2, 4, 8, 6200, 500, 1, 4),
    "pretrain_mlp_qwen": (5e-4, 8, 2, 1, 1, 6200, 500, 1, 0),
    "pretrain_mlp_qwen_nodes": (5e-4, 8, 2, 4, 8, 6200, 500, 1, 4),
    "finetune": (2e-5, 8, 1, 1, 1, 9100, 500, 1, 0),
    "finetune_nodes": (2e-5, 8, 2, 5, 8, 4500, 500, 2, 4),
    "finetune_qwen": (2e-5, 8, 2, 1, 8, 6200, 500, 1, 4),
    "finetune_qwen_nodes": (2e-5, 8, 2, 4, 8, 6200, 500, 1, 4),
    "finetuneTask_nodes": (2e-5, 6, 2, 3, 8, 9100, 500, 2, 4),
    "finetuneTask_qwen": (2e-5, 1, 2, 1, 8, 33300, 500, 1, 4),
    "finetuneTask_qwen_nodes": (2e-5, 8, 2, 2, 8, 6200, 500, 1, 4),
    "pretrain_audio_mlp_qwen": (5e-4, 8, 2, 1, 8, 6200, 200, 1, 4),
    "pretrain_audio_mlp_qwen_nodes": (5e-4, 8, 2, 4, 8, 6200, 500, 1, 4),
    "finetuneTaskNeg_qwen": (2e-5, 8, 2, 1, 1, 6200, 500, 1, 4),
    "finetuneTaskNeg_qwen_nodes": (1e-5, 8, 2, 4, 8, 6200, 500, 1, 4),
    "finetuneTaskNeg_qwen_fo": (1e-4, 8, 2, 1, 1, 6200, 500, 1, 4),
    "finetuneTaskNeg_qwen_fo_nodes": (1e-4, 8, 2, 4, 8, 6200, 500, 1, 4),
}
#: What each script's name begins with, and the stage it runs; the longest counts.
STAGE_OF = {
    "pretrain_mlp": "1.1",
    "finetune": "1.2",
    "finetuneTask": "1.3",
    "pretrain_audio": "2.1b",
    "finetuneTaskNeg": "2.2",
    "finetuneTaskNeg_qwen_fo": "2.1b",
}
RATES = {"finetune_qwen": {"vision": 2e-6}, "finetune_qwen_nodes": {"vision": 2e-6}}


@pytest.mark.parametrize("name", SCRIPTS)
def test_figures_are_the_scripts(name: str) -> None:
    arguments = parse_arguments(script_words(name))
    assert FIGURES[name] == tuple(
        arguments[flag]
        for flag in (
            "learning_rate",
            "per_device_train_batch_size",
            "gradient_accumulation_steps",
            "nnodes",
            "nproc_per_node",
            "model_max_length",
            "save_steps",
            "save_total_limit",
            "dataloader_num_workers",
        )
    )
    assert arguments["freeze_audio_encoder"] is True
    assert arguments["deepspeed"] == "zero3.json"


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_a_recipe(name: str) -> None:
    run, recipe = script_run(name), load_recipe(f"{name}.sh")
    assert recipe == run.recipe == load_recipe(dump_recipe(recipe))
    check_recipe(recipe)
    assert (
        run.stage == STAGE_OF[max((start for start in STAGE_OF if name.startswith(start)), key=len)]
    )
    assert run.stage == STAGE_ALIASES.get(name, run.stage)
    spec = recipe.stages[run.stage]
    rate, batch, accumulate, nodes, processes, length, every, kept, workers = FIGURES[name]
    assert spec.trainable == {**dict.fromkeys(spec.trainable, rate), **RATES.get(name, {})}
    assert spec.batch.global_batch_size == batch * accumulate * nodes * processes
    assert (spec.batch.grad_accum, spec.batch.seq_len, spec.checkpoint_interval) == (
        accumulate,
        length,
        every,
    )
    assert (recipe.launch.nodes, recipe.launch.nproc, recipe.launch.workers) == (
        nodes,
        processes,
        workers,
    )
    assert recipe.storage.keep_last == kept
    assert (spec.epochs, spec.optim.schedule, spec.optim.warmup, spec.optim.weight_decay) == (
        1,
        "cosine",
        0.03,
        0,
    )
    assert (spec.engine.kind, spec.engine.zero, spec.engine.checkpoint_activations) == (
        "deepspeed",
        3,
        True,
    )
    assert recipe.model.dtype == spec.engine.dtype == "bfloat16"
    assert describe_scripts()[name].startswith(f"Public script. Stage {run.stage}: trains ")


@pytest.mark.parametrize(
    ("name", "family", "tower", "template"),
    [
        ("finetune", "mixtral-8x7b", "internvit", "mixtral_two"),
        ("pretrain_mlp_qwen", "qwen2p5_instruct", "siglip", "qwen2p5_instruct"),
        ("finetuneTaskNeg_qwen_fo", "qwen2p5_instruct", "internvit", "qwen2p5_instruct"),
    ],
)
def test_the_model_is_the_scripts(name: str, family: str, tower: str, template: str) -> None:
    run = script_run(name)
    model = run.recipe.model
    assert (model.llm.family, model.vision.kind, run.recipe.data.template) == (
        family,
        tower,
        template,
    )
    assert (model.llm.hidden_size, model.llm.moe is not None) == (
        (4096, True) if family != "qwen2p5_instruct" else (3584, False)
    )


def test_the_prompt_alone_trains_in_the_fo_scripts() -> None:
    run = script_run("finetuneTaskNeg_qwen_fo")
    assert run.recipe.stages["2.1b"].trainable == {"audio_prompt": 1e-4}
    assert run.recipe.model.audio_adapter.prompt_tokens == 25
    assert set(run.recipe.weights) == {"audio_encoder", "audio_adapter"}
    assert any("without --audio_state_predictor_tuning" in note for note in run.notes)


def test_names() -> None:
    assert script_name("finetune_qwen.sh") == script_name("finetune_qwen") == "finetune_qwen"
    assert script_name("finetuneTask.sh") == "finetuneTask_nodes"
    assert script_name("tiny") is None
    with raises_code(UserError, "VT-RECIPE-035", "finetune_qwen"):
        load_recipe("finetune_quen")


def test_the_document_is_in_step() -> None:
    path = Path(__file__).parents[4] / "docs" / "public-arguments.md"
    assert path.read_text(encoding="utf-8") == document(), (
        "run vita-train train --flags > docs/public-arguments.md"
    )
