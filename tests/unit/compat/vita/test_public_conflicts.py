"""Flags that contradict each other are refused in one line with both names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.errors import raises_code
from vita_train.compat.vita.build import public_run
from vita_train.compat.vita.conflicts import CONFLICTS, tower_kind
from vita_train.compat.vita.parse import parse_arguments
from vita_train.compat.vita.zero import SHIPPED, Zero, disagreements, read_zero
from vita_train.errors import UserError
from vita_train.recipe.lora import QuantizeSpec

BASE = [
    "--model_name_or_path",
    "llm",
    "--vision_tower",
    "t/InternViT",
    "--dataset_use",
    "d",
    "--output_dir",
    "runs/m",
]

CASES: list[tuple[str, str, str]] = [
    ("--bf16 --fp16", "--bf16 True", "--fp16 True"),
    ("--fp16 --deepspeed zero2.json", "--fp16 True", "--deepspeed zero2.json"),
    ("--bits 4", "--bits 4", "--lora_enable False"),
    ("--bits 8 --lora_enable False", "--bits 8", "--lora_enable False"),
    ("--bits 4 --lora_enable True --deepspeed zero3.json", "--bits 4", "--deepspeed zero3.json"),
    ("--lora_enable --tune_mm_mlp_adapter", "--lora_enable True", "--tune_mm_mlp_adapter True"),
    (
        "--lora_enable --tune_audio_mlp_adapter",
        "--lora_enable True",
        "--tune_audio_mlp_adapter True",
    ),
    ("--use_s2", "--use_s2 True", "--vision_tower t/InternViT"),
    (
        "--unfreeze_vision_tower --vision_tower siglip",
        "--unfreeze_vision_tower True",
        "--vision_tower siglip",
    ),
    ("--mm_projector_lr 2e-6", "--mm_projector_lr 2e-06", "--unfreeze_vision_tower False"),
    (
        "--is_multimodal False --lazy_preprocess False",
        "--is_multimodal False",
        "--lazy_preprocess False",
    ),
    ("--is_multimodal False", "--is_multimodal False", "--vision_tower t/InternViT"),
    (
        "--min_dynamic_patch 5 --max_dynamic_patch 4",
        "--min_dynamic_patch 5",
        "--max_dynamic_patch 4",
    ),
    ("--min_video_frames 17", "--min_video_frames 17", "--max_video_frames 16"),
    ("--version nemo", "--version nemo", "--model_type"),
    ("--audio_prompt_finetune", "--audio_prompt_finetune True", "--audio_prompt_num"),
    (
        "--lr_scheduler_type cosine --deepspeed ds_config_zero3.json",
        "--lr_scheduler_type cosine",
        "--deepspeed ds_config_zero3.json",
    ),
    ("--debug_mode --report_to wandb", "--debug_mode True", "--report_to wandb"),
    ("--wandb_project p --report_to tensorboard", "--wandb_project p", "--report_to tensorboard"),
    (
        "--resume_from_checkpoint runs/other/checkpoint-3",
        "--resume_from_checkpoint runs/other/checkpoint-3",
        "--output_dir runs/m",
    ),
]


@pytest.mark.parametrize(("line", "first", "second"), CASES)
def test_both_flags_are_named(line: str, first: str, second: str) -> None:
    with raises_code(UserError, "VT-USE-013", f"{first} contradicts {second}") as caught:
        public_run([*BASE, *line.split()])
    assert caught.value.where == "train"
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


def test_every_conflict_has_a_case() -> None:
    tried = {(first.split()[0], second.split()[0]) for _, first, second in CASES}
    assert {(f"--{conflict.first}", f"--{conflict.second}") for conflict in CONFLICTS} == tried


@pytest.mark.parametrize(
    "line",
    [
        "--bf16 --fp16 False",
        "--bits 16",
        "--unfreeze_vision_tower --mm_projector_lr 1e-6",
        "--lr_scheduler_type linear --deepspeed ds_config_zero3.json",
        "--deepspeed ds_config_zero3_offload.json",
        "--lazy_preprocess False",
        "--resume_from_checkpoint runs/m/checkpoint-3",
        "--report_to all --wandb_project p",
        "--version qwen2p5_instruct",
    ],
)
def test_what_goes_together(line: str) -> None:
    assert public_run([*BASE, *line.split()]).stage == "1.3"


def test_quantised_weights_below_an_adapter_are_no_contradiction() -> None:
    run = public_run([*BASE, "--bits", "4", "--tune_mm_mlp_adapter"])
    assert run.recipe.stages["1.1"].quantize == QuantizeSpec(kind="nf4", double=True)


def test_like_public_goes_on_where_the_public_code_does() -> None:
    run = public_run(
        [
            *BASE,
            *["--mm_projector_lr", "1e-6", "--lr_scheduler_type", "cosine"],
            "--deepspeed",
            "ds_config_zero3.json",
        ],
        like_public=True,
    )
    assert run.recipe.stages["1.3"].optim.schedule == "linear"
    assert sum("taken as the public code does" in note for note in run.notes) == 2
    with raises_code(UserError, "VT-USE-013", "--bf16"):
        public_run([*BASE, "--bf16", "--fp16"], like_public=True)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("OpenGVLab/InternViT-300M-448px", "internvit"),
        ("/design/InternViT-300M", "internvit"),
        ("google/siglip-so400m-patch14-384", "siglip"),
        ("/towers/eva-clip/", "eva"),
        ("openai/clip-vit-large", "clip"),
    ],
)
def test_a_tower_is_known_by_its_own_name(path: str, kind: str) -> None:
    assert tower_kind(parse_arguments(["--vision_tower", path])) == kind


def test_deepspeed_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(
        json.dumps(
            {
                "zero_optimization": {
                    "stage": 3,
                    "offload_optimizer": {"device": "cpu"},
                    "offload_param": {"device": "cpu"},
                },
                "scheduler": {"type": "WarmupDecayLR"},
            }
        )
    )
    assert (
        read_zero(str(path)) == Zero(3, "all", "linear") == SHIPPED["ds_config_zero3_offload.json"]
    )
    path.write_text('{"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "none"}}}')
    assert read_zero(str(path)) == Zero(2, "none", "")
    assert read_zero("anywhere/zero3.json") == Zero(3, "none", "")


@pytest.mark.parametrize(
    ("text", "code", "fact"),
    [
        ("{", "VT-USE-023", "JSON"),
        ("[]", "VT-USE-027", "zero_optimization"),
        ('{"zero_optimization": {"stage": 4}}', "VT-USE-024", "zero_optimization.stage is 4"),
        ('{"zero_optimization": {"offload_param": {"device": "cpu"}}}', "VT-USE-025", "optimizer"),
        ('{"scheduler": {"type": "OneCycle"}}', "VT-USE-026", "scheduler OneCycle"),
    ],
)
def test_deepspeed_files_that_make_no_sense(
    tmp_path: Path, text: str, code: str, fact: str
) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text)
    with raises_code(UserError, code, str(path), fact):
        read_zero(str(path))


DEEPSPEED = {
    "fp16": {"enabled": "auto", "loss_scale_window": 1000, "hysteresis": 2},
    "bf16": {"enabled": "auto"},
    "zero_optimization": {"stage": 3, "overlap_comm": True, "reduce_bucket_size": "auto"},
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_clipping": "auto",
    "steps_per_print": 2000,
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": [0.9, 0.999]}},
    "flops_profiler": {"enabled": False, "whatever": 1},
}


def test_settings_of_a_deepspeed_file_without_effect_are_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(DEEPSPEED))
    zero = read_zero(str(path))
    assert zero.ignored == (
        "fp16.loss_scale_window",
        "fp16.hysteresis",
        "zero_optimization.overlap_comm",
        "steps_per_print",
        "flops_profiler",
    )
    assert zero.stated == (("optimizer.params.betas[0]", 0.9), ("optimizer.params.betas[1]", 0.999))


@pytest.mark.parametrize(
    ("changed", "near"),
    [
        ({"zero_optimisation": {"stage": 2}}, "did you mean zero_optimization?"),
        ({"zero_optimization": {"stages": 2}}, "did you mean stage?"),
        ({"bf16": {"enable": True}}, "did you mean enabled?"),
        ({"zero_optimization": {"offload_param": {"devise": "cpu"}}}, "did you mean device?"),
        ({"zzz": 1}, "remove it"),
    ],
)
def test_a_misspelt_setting_of_a_deepspeed_file_is_refused(
    tmp_path: Path, changed: dict[str, object], near: str
) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(changed))
    with raises_code(UserError, "VT-USE-221", near, str(path)):
        read_zero(str(path))


def test_a_deepspeed_file_with_another_optimizer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"optimizer": {"type": "Lion"}}')
    with raises_code(UserError, "VT-USE-220", "Lion"):
        read_zero(str(path))


FLAGS = {
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 4,
    "max_grad_norm": 1.0,
    "bf16": True,
    "fp16": False,
    "learning_rate": 1e-5,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "weight_decay": 0.0,
}


@pytest.mark.parametrize(
    ("stated", "names"),
    [
        ({"train_micro_batch_size_per_gpu": 2, "train_batch_size": 64}, ""),
        ({"train_batch_size": 32}, "train_batch_size"),
        ({"gradient_accumulation_steps": 1}, "gradient_accumulation_steps"),
        ({"gradient_clipping": 0.5}, "gradient_clipping"),
        ({"bf16": {"enabled": False}}, "bf16.enabled"),
        ({"optimizer": {"params": {"betas": [0.9, 0.95]}}}, "optimizer.params.betas[1]"),
        ({"scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": 1}}}, "warmup_max_lr"),
    ],
)
def test_a_deepspeed_file_must_agree_with_the_flags(
    tmp_path: Path, stated: dict[str, object], names: str
) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(stated))
    lines = disagreements(read_zero(str(path)), FLAGS, ranks=8)
    assert len(lines) == bool(names)
    assert all(names in line for line in lines)


def test_a_run_with_a_deepspeed_file_that_disagrees_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"zero_optimization": {"stage": 2}, "gradient_accumulation_steps": 3}')
    words = [*BASE, "--registry", "r.json", "--deepspeed", str(path)]
    with raises_code(UserError, "VT-USE-219", "gradient_accumulation_steps is 3", str(path)):
        public_run(words)
    path.write_text('{"zero_optimization": {"stage": 2}, "steps_per_print": 3}')
    assert any("steps_per_print" in note for note in public_run(words).notes)
