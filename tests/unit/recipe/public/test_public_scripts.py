"""The 17 public launch scripts as recipes."""

from __future__ import annotations

from pathlib import Path

import pytest

from vita_train.errors import UserError
from vita_train.recipe.check import check_recipe
from vita_train.recipe.ladder import STAGE_ALIASES
from vita_train.recipe.load import dump_recipe, load_recipe
from vita_train.recipe.public.document import document
from vita_train.recipe.public.parse import parse_arguments
from vita_train.recipe.public.scripts import (
    SCRIPTS,
    describe_scripts,
    script_name,
    script_run,
    script_words,
)

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
#: What keeps a script from being a recipe.
MISSING = {
    **dict.fromkeys(("pretrain_mlp", "pretrain_mlp_nodes", "finetune", "finetune_nodes", "finetuneTask_nodes"),
                    "--model_type mixtral-8x7b"),
    **dict.fromkeys(("pretrain_mlp_qwen", "pretrain_mlp_qwen_nodes"), "--vision_tower google/siglip"),
    **dict.fromkeys(("finetuneTaskNeg_qwen_fo", "finetuneTaskNeg_qwen_fo_nodes"), "--audio_prompt_finetune True"),
}
READY = [name for name in SCRIPTS if name not in MISSING]
RATES = {"finetune_qwen": {"vision": 2e-6}, "finetune_qwen_nodes": {"vision": 2e-6}}


@pytest.mark.parametrize("name", SCRIPTS)
def test_figures_are_the_scripts(name: str) -> None:
    arguments = parse_arguments(script_words(name))
    assert FIGURES[name] == tuple(arguments[flag] for flag in (
        "learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "nnodes", "nproc_per_node",
        "model_max_length", "save_steps", "save_total_limit", "dataloader_num_workers"))
    assert arguments["freeze_audio_encoder"] is True
    assert arguments["deepspeed"] == "zero3.json"


@pytest.mark.parametrize("name", READY)
def test_a_script_is_a_recipe(name: str) -> None:
    run, recipe = script_run(name), load_recipe(f"{name}.sh")
    assert recipe == run.recipe == load_recipe(dump_recipe(recipe))
    check_recipe(recipe)
    assert run.stage == STAGE_ALIASES[name]
    spec = recipe.stages[run.stage]
    rate, batch, accumulate, nodes, processes, length, every, kept, workers = FIGURES[name]
    assert spec.trainable == {**dict.fromkeys(spec.trainable, rate), **RATES.get(name, {})}
    assert spec.batch.rows == batch * accumulate * nodes * processes
    assert (spec.batch.accumulate, spec.batch.row_tokens, spec.save_every) == (accumulate, length, every)
    assert (recipe.launch.nodes, recipe.launch.nproc, recipe.launch.workers) == (nodes, processes, workers)
    assert recipe.storage.keep_last == kept
    assert (spec.epochs, spec.optim.schedule, spec.optim.warmup, spec.optim.weight_decay) == (1, "cosine", 0.03, 0)
    assert (spec.engine.kind, spec.engine.zero, spec.engine.checkpoint_activations) == ("deepspeed", 3, True)
    assert recipe.model.dtype == spec.engine.dtype == "bfloat16"
    assert describe_scripts()[name].startswith(f"Public script. Stage {run.stage}: trains ")


@pytest.mark.parametrize(("name", "words"), MISSING.items())
def test_what_is_missing_is_said(name: str, words: str) -> None:
    with pytest.raises(UserError, match=f"{name}.sh: not yet supported: .*{words}"):
        load_recipe(name)
    assert words in describe_scripts()[name]


def test_names() -> None:
    assert script_name("finetune_qwen.sh") == script_name("finetune_qwen") == "finetune_qwen"
    assert script_name("finetuneTask.sh") == "finetuneTask_nodes"
    assert script_name("tiny") is None
    with pytest.raises(UserError, match="did you mean finetune_qwen"):
        load_recipe("finetune_quen")


def test_the_document_is_in_step() -> None:
    path = Path(__file__).parents[4] / "docs" / "public-arguments.md"
    assert path.read_text(encoding="utf-8") == document(), "run vita-train train --flags > docs/public-arguments.md"
