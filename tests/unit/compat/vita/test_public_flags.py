"""What becomes of each flag: a setting, a sentence, or a refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.errors import raises_code
from vita_train.compat.vita.build import public_run
from vita_train.compat.vita.flags import FLAGS
from vita_train.errors import UserError
from vita_train.recipe.check import check_recipe
from vita_train.recipe.load import dump_recipe, load_recipe
from vita_train.recipe.schema import Recipe

BASE = [
    "--model_name_or_path",
    "llm",
    "--vision_tower",
    "t/InternViT",
    "--dataset_use",
    "Pretrain_video",
    "--output_dir",
    "runs/mine",
    "--lr_scheduler_type",
    "cosine",
    "--audio_encoder",
    "enc",
]

#: Flags with a value, the setting they turn into, and its value. The stage is 1.3 unless it is
#: told.
SETTINGS: list[tuple[str, str, Any]] = [
    ("--model_name_or_path other", "model.llm.source", "other"),
    ("--model_name_or_path other", "tokenizer.source", "other"),
    ("--model_name_or_path other", "weights.projector", "other"),
    ("--model_type qwen2p5_instruct", "model.llm.family", "qwen2p5_instruct"),
    ("--version qwen2p5_instruct", "data.template", "qwen2p5_instruct"),
    ("--model_type mixtral-8x7b", "model.llm.moe.num_local_experts", 8),
    ("--model_type nemo --version nemo", "data.template", "nemo"),
    ("--model_type llama3-8b", "data.template", "llama3"),
    ("--model_type llama3-8b --version llama", "data.template", "llama"),
    ("--model_type mixtral-8x7b --version mixtral_zh", "data.template", "mixtral_zh"),
    ("--model_type mixtral-8x7b --version default", "data.template", "mixtral_two"),
    *((f"--version {name}", "data.template", name) for name in ("plain", "phi3", "minicpm")),
    ("--fp16", "stages.1.3.engine.dtype", "float16"),
    ("--optim adafactor", "stages.1.3.optim.kind", "adafactor"),
    ("--optim adamw_bnb_8bit", "stages.1.3.optim.kind", "adamw_8bit"),
    ("--lora_enable True --lora_bias lora_only", "stages.1.3.lora.bias", "lora_only"),
    ("--run_name r", "tracking.run_name", "r"),
    ("--group_by_modality_length True", "stages.1.3.batch.group_by_modality_length", True),
    ("--group_by_modality_length True", "stages.1.3.batch.packing", False),
    ("--projector_lr 1e-3", "stages.1.3.trainable.projector", 1e-3),
    ("--model_type nemo", "model.llm.num_layers", 40),
    ("--model_type mixtral-8x7b", "data.template", "mixtral_two"),
    ("--audio_prompt_finetune True --audio_prompt_num 25", "model.audio_adapter.prompt_tokens", 25),
    (
        "--audio_prompt_finetune True --audio_prompt_num 25",
        "stages.2.1b.trainable",
        {"audio_prompt": 5e-5},
    ),
    (
        "--audio_state_predictor_tuning True --model_type qwen2p5_fo_instruct",
        "data.state_mode",
        "head",
    ),
    ("--vision_tower x/siglip --model_max_length 1024", "model.vision.kind", "siglip"),
    (
        "--vision_tower x/siglip --use_s2 --model_max_length 1024",
        "model.vision.scales",
        [384, 768, 1152],
    ),
    (
        "--vision_tower x/tower --vision_tower_type eva --model_max_length 1024",
        "model.vision.kind",
        "eva_clip",
    ),
    ("--mm_projector_type linear", "model.projector.kind", "linear"),
    ("--mm_projector_type spp_v2", "model.projector.kind", "spp_v2"),
    ("--lora_enable True --lora_r 8 --lora_alpha 4", "stages.1.3.lora.rank", 8),
    ("--lora_enable True --lora_dropout 0.1", "stages.1.3.lora.dropout", 0.1),
    ("--lora_enable True --lora_bias all", "stages.1.3.lora.bias", "all"),
    ("--lora_enable True --bits 4 --quant_type fp4", "stages.1.3.quantize.kind", "fp4"),
    ("--lora_enable True --bits 8", "stages.1.3.quantize.kind", "int8"),
    ("--tune_mm_mlp_adapter --bits 4 --double_quant False", "stages.1.1.quantize.double", False),
    ("--tile_video", "data.video.tile_frames", True),
    ("--slowfast", "data.video.slowfast", True),
    ("--state_mode head", "data.state_mode", "head"),
    ("--freeze_backbone True", "stages.1.1.trainable", {"projector": 5e-5}),
    ("--tune_mm_mlp_adapter True", "stages.1.1.trainable", {"projector": 5e-5}),
    ("--tune_audio_mlp_adapter True", "stages.2.1b.trainable", {"audio_adapter": 5e-5}),
    ("--vision_tower x/InternViT-300M", "model.vision.source", "x/InternViT-300M"),
    ("--vision_tower design/InternViT-300M/", "model.vision.kind", "internvit"),
    ("--vision_tower tower --vision_tower_type internvit", "model.vision.source", "tower"),
    ("--audio_encoder other --tune_audio_mlp_adapter", "weights.audio_encoder", "other"),
    (
        "--freeze_audio_encoder False",
        "stages.2.2.trainable",
        {"llm": 5e-5, "projector": 5e-5, "audio_encoder": 5e-5},
    ),
    (
        "--freeze_audio_encoder_adapter False",
        "stages.2.2.trainable",
        {"llm": 5e-5, "projector": 5e-5, "audio_adapter": 5e-5},
    ),
    ("--freeze_audio_encoder_adapter False", "weights.audio_adapter", "llm"),
    (
        "--unfreeze_vision_tower",
        "stages.1.3.trainable",
        {"llm": 5e-5, "vision": 5e-5, "projector": 5e-5},
    ),
    ("--pretrain_mm_mlp_adapter p.safetensors", "weights.projector", "p.safetensors"),
    (
        "--pretrain_mm_mlp_adapter p.safetensors",
        "stages.1.2.trainable",
        {"llm": 5e-5, "projector": 5e-5},
    ),
    ("--tune_audio_mlp_adapter --pretrain_audio_mlp_adapter a", "weights.audio_adapter", "a"),
    ("--mm_projector_type mlp2x_gelu", "model.projector.kind", "mlp2x_gelu"),
    ("--dataset_use other", "stages.1.3.data", {"other": 1.0}),
    ("--image_aspect_ratio pad", "data.image.single_tile", "pad"),
    ("--image_aspect_ratio square", "data.image.single_tile", "squash"),
    ("--min_dynamic_patch 2", "data.image.min_tiles", 2),
    ("--max_dynamic_patch 6", "data.image.max_tiles", 6),
    ("--use_thumbnail False", "data.image.thumbnail", False),
    ("--optim adamw_torch_fused", "stages.1.3.optim.kind", "adamw"),
    (
        "--tune_mm_mlp_adapter --freeze_mm_mlp_adapter False",
        "stages.1.1.trainable",
        {"projector": 5e-5},
    ),
    (
        "--unfreeze_vision_tower --freeze_mm_mlp_adapter",
        "stages.1.3.trainable",
        {"llm": 5e-5, "vision": 5e-5},
    ),
    ("--model_max_length 6200", "stages.1.3.batch.seq_len", 6200),
    (
        "--unfreeze_vision_tower --mm_projector_lr 2e-6",
        "stages.1.3.trainable",
        {"llm": 5e-5, "vision": 2e-6, "projector": 5e-5},
    ),
    ("--output_dir a/b/Some_Run", "name", "some_run"),
    ("--output_dir a/b/Some_Run", "storage.root", "a/b"),
    ("--output_dir s3://bucket/runs/x", "storage.root", "s3://bucket/runs"),
    ("--output_dir x", "storage.root", "."),
    ("--output_dir /x", "storage.root", "/"),
    ("--num_train_epochs 2", "stages.1.3.epochs", 2.0),
    ("--max_steps 7", "stages.1.3.steps", 7),
    ("--max_steps 7 --num_train_epochs 2", "stages.1.3.epochs", None),
    (
        "--per_device_train_batch_size 3 --gradient_accumulation_steps 2 --nnodes 2 "
        "--nproc_per_node 4",
        "stages.1.3.batch.global_batch_size",
        48,
    ),
    ("--gradient_accumulation_steps 2", "stages.1.3.batch.grad_accum", 2),
    ("--learning_rate 2e-5", "stages.1.3.trainable", {"llm": 2e-5, "projector": 2e-5}),
    ("--weight_decay 0.01", "stages.1.3.optim.weight_decay", 0.01),
    ("--adam_beta1 0.8 --adam_beta2 0.95", "stages.1.3.optim.betas", [0.8, 0.95]),
    ("--adam_epsilon 1e-6", "stages.1.3.optim.eps", 1e-6),
    ("--max_grad_norm 0.5", "stages.1.3.optim.max_grad_norm", 0.5),
    ("--warmup_ratio 0.03", "stages.1.3.optim.warmup", 0.03),
    ("--warmup_steps 20 --warmup_ratio 0.03", "stages.1.3.optim.warmup", 20.0),
    ("--lr_scheduler_type linear", "stages.1.3.optim.schedule", "linear"),
    ("--lr_scheduler_type constant_with_warmup --warmup_steps 5", "stages.1.3.optim.warmup", 5.0),
    ("--lr_scheduler_type constant --warmup_steps 5", "stages.1.3.optim.warmup", 0.0),
    ("--bf16 True", "model.dtype", "bfloat16"),
    ("--bf16 True", "stages.1.3.engine.dtype", "bfloat16"),
    ("--bf16 False", "model.dtype", "float32"),
    ("--gradient_checkpointing True", "stages.1.3.engine.checkpoint_activations", True),
    ("--deepspeed script/zero2.json", "stages.1.3.engine.zero", 2),
    ("--deepspeed script/zero3.json", "stages.1.3.engine.kind", "deepspeed"),
    ("--ddp_timeout 25200", "launch.step_timeout", 25200.0),
    ("--dataloader_num_workers 4", "launch.workers", 4),
    ("--eval_strategy steps --eval_steps 100", "stages.1.3.eval.interval", 100),
    ("--eval_strategy steps --logging_steps 10", "stages.1.3.eval.interval", 10),
    ("--eval_strategy no --eval_steps 100", "stages.1.3.eval.interval", 0),
    ("--evaluation_strategy steps --eval_steps 50", "stages.1.3.eval.interval", 50),
    ("--save_strategy steps --save_steps 200", "stages.1.3.checkpoint_interval", 200),
    ("--save_total_limit 3", "storage.keep_last", 3),
    ("--report_to none", "tracking.tensorboard", False),
    ("--report_to tensorboard,wandb", "tracking.wandb_project", "mine"),
    ("--report_to wandb --wandb_project p", "tracking.wandb_project", "p"),
    ("--seed 7", "seed", 7),
    ("--registry r.yaml", "data.source.records.registry", "r.yaml"),
    ("--image_folder /pictures", "data.source.records.image_folder", "/pictures"),
    ("--data_ratio 0.2", "stages.1.3.data", {"Pretrain_video": 0.2}),
    ("--max_reject_share 0.1", "data.max_reject_share", 0.1),
    ("--fps 2", "data.video.fps", 2.0),
    ("--min_video_frames 2", "data.video.min_frames", 2),
    ("--max_video_frames 32", "data.video.max_frames", 32),
    ("--max_audio_seconds 30", "data.audio.max_seconds", 30.0),
    ("--state_mode none", "data.state_mode", "none"),
    ("--debug_mode", "launch.settings.kubernetes.pod.env", {"NCCL_DEBUG": "INFO"}),
]

#: Flags that change nothing, and what is told instead.
TOLD: list[tuple[str, str]] = [
    ("--pretrain_audio_mlp_adapter a", "is not read: stage 1.3 has no audio adapter"),
    ("--lazy_preprocess True", "--lazy_preprocess is ignored by the public code"),
    ("--remove_unused_columns True", "has no columns"),
    ("--mpt_attn_impl torch", "--mpt_attn_impl is ignored by the public code"),
    ("--quant_type fp4", "without --bits 4"),
    ("--double_quant False", "without --bits 4"),
    ("--lora_r 8", "--lora_r has no effect without --lora_enable"),
    ("--lora_alpha 8", "--lora_alpha has no effect"),
    ("--lora_dropout 0.1", "--lora_dropout has no effect"),
    ("--lora_bias all", "--lora_bias has no effect"),
    ("--lora_weight_path w", "--lora_weight_path is ignored by the public code"),
    ("--per_device_eval_batch_size 4", "batches of training"),
    ("--tf32 True", "--tf32 has no effect"),
    ("--local_rank 0", "--local_rank has no effect"),
    ("--logging_steps 1", "every step is logged"),
    ("--audio_prompt_num 25", "--audio_prompt_num has no effect without --audio_prompt_finetune"),
]

#: Flags that no recipe can express yet, or that make no sense.
REFUSED: list[tuple[str, str, str]] = [
    ("--version vicuna", "VT-USE-017", "qwen2p5_instruct, nemo, mixtral_two"),
    ("--projector_lr 1e-3 --freeze_mm_mlp_adapter", "VT-USE-237", "--projector_lr 0.001"),
    ("--bits 4", "VT-USE-013", "--lora_enable True"),
    (
        "--model_type nemo --version qwen2p5_instruct",
        "VT-USE-013",
        "--version qwen2p5_instruct contradicts --model_type nemo",
    ),
    ("--vision_tower x/tower", "VT-USE-014", "--vision_tower_type"),
    (
        "--fp16 --deepspeed zero2.json",
        "VT-USE-013",
        "--fp16 True contradicts --deepspeed zero2.json",
    ),
    ("--optim lion_8bit", "VT-USE-019", "adamw_torch, adamw_torch_fused, adamw_hf, adafactor"),
    ("--lr_scheduler_type polynomial", "VT-USE-019", "--lr_scheduler_type polynomial"),
    ("--eval_strategy epoch", "VT-USE-019", "--eval_strategy epoch"),
    ("--save_strategy no", "VT-USE-019", "--save_strategy no"),
    ("--save_steps 0.1", "VT-USE-010", "--save_steps 0.1"),
    ("--report_to mlflow", "VT-USE-012", "tensorboard, wandb"),
    ("--data_ratio 0", "VT-USE-009", "--data_ratio 0.0"),
    ("--warmup_ratio 1.5", "VT-USE-011", "--warmup_steps"),
    ("--output_dir /", "VT-USE-008", "--output_dir /"),
    ("--output_dir s3://bucket", "VT-USE-008", "s3://bucket"),
    (
        "--dataset_use temp --is_multimodal False",
        "VT-USE-013",
        "--is_multimodal False contradicts --vision_tower",
    ),
    ("--deepspeed nowhere.json", "VT-USE-022", "nowhere.json"),
    ("--freeze_mm_mlp_adapter --freeze_backbone", "VT-USE-021", "freeze"),
    ("--model_max_length 33300", "VT-USE-006", "32768"),
]


def setting(recipe: Recipe, path: str) -> Any:
    """Return a setting by its path; stage ids hold a dot."""
    value: Any = recipe.model_dump(mode="json")
    if path.startswith("stages."):
        stage = next(stage for stage in value["stages"] if path.startswith(f"stages.{stage}."))
        value, path = value["stages"][stage], path.removeprefix(f"stages.{stage}.")
    for key in path.split("."):
        value = value[key]
    return value


@pytest.mark.parametrize(("line", "path", "value"), SETTINGS)
def test_a_flag_becomes_a_setting(line: str, path: str, value: Any) -> None:
    run = public_run([*BASE, *line.split()])
    assert setting(run.recipe, path) == value
    assert list(run.recipe.stages) == [run.stage]
    check_recipe(run.recipe)
    assert load_recipe(dump_recipe(run.recipe)) == run.recipe


@pytest.mark.parametrize(("line", "words"), TOLD)
def test_a_flag_without_effect_is_told_once(line: str, words: str) -> None:
    plain, run = public_run(BASE), public_run([*BASE, *line.split(), *line.split()])
    assert run.recipe == plain.recipe
    assert sum(words in note for note in run.notes) == 1
    assert not any(words in note for note in plain.notes)


@pytest.mark.parametrize(("line", "code", "fact"), REFUSED)
def test_a_flag_is_refused(line: str, code: str, fact: str) -> None:
    with raises_code(UserError, code, fact) as caught:
        public_run([*BASE, *line.split()])
    assert "\n" not in str(caught.value)


def test_every_flag_is_in_one_of_the_tables() -> None:
    lines = [line for line, *_ in (*SETTINGS, *TOLD, *REFUSED)]
    named = {
        word.removeprefix("--") for line in lines for word in line.split() if word.startswith("--")
    }
    assert set(FLAGS) <= named | {"cache_dir", "resume_from_checkpoint"}  # have tests of their own


@pytest.mark.parametrize("name", ["model_name_or_path", "dataset_use", "output_dir"])
def test_what_must_be_given(name: str) -> None:
    place = BASE.index(f"--{name}")
    with raises_code(UserError, "VT-USE-005", f"--{name}"):
        public_run(BASE[:place] + BASE[place + 2 :])


def test_without_a_tower_a_run_reads_and_hears_and_does_not_see() -> None:
    place = BASE.index("--vision_tower")
    blind = BASE[:place] + BASE[place + 2 :]
    run = public_run(blind)
    assert set(run.recipe.stages[run.stage].trainable) == {"llm"}
    assert run.recipe.model.vision.source is None
    assert any("text and audio alone" in note for note in run.notes)
    with raises_code(UserError, "VT-USE-236", "--tune_mm_mlp_adapter True", "--vision_tower"):
        public_run([*blind, "--tune_mm_mlp_adapter"])


def test_without_a_dataset_those_that_there_are_are_listed() -> None:
    place = BASE.index("--dataset_use")
    with raises_code(UserError, "VT-USE-005", "--dataset_use", "one, two"):
        public_run(BASE[:place] + BASE[place + 2 :], names=lambda registry: ["one", "two"])


def test_where_the_hubs_files_go_and_what_is_gone_on_from_are_handed_on() -> None:
    run = public_run([*BASE, "--cache_dir", "c", "--resume_from_checkpoint", "runs/mine/1.3"])
    assert (run.hub_cache, run.resumed) == ("c", "runs/mine/1.3")
    assert public_run([*BASE, "--resume_from_checkpoint", "True"]).resumed is None


def test_both_parts_train_where_both_are_asked_for() -> None:
    words = [*BASE, "--tune_mm_mlp_adapter", "--tune_audio_mlp_adapter"]
    run = public_run(words)
    assert run.recipe.stages[run.stage].trainable == {"projector": 5e-5, "audio_adapter": 5e-5}
    assert any("projector, audio_adapter" in note for note in run.notes)
    public = public_run(words, like_public=True)
    assert public.recipe.stages[public.stage].trainable == {"audio_adapter": 5e-5}


def test_relative_weights_are_looked_for_below_the_root(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "llm").mkdir()
    monkeypatch.setenv("VITA_TRAIN_WEIGHTS", str(tmp_path))
    model = public_run(BASE).recipe.model
    assert model.llm.source == str(tmp_path / "llm")
    assert model.vision.source == "t/InternViT"  # not there: a hub's name, or a mistake told later


def test_the_stage_can_be_named_and_settings_laid_over() -> None:
    run = public_run(
        BASE, stage="finetune_qwen.sh", settings=["stages.1.2.batch.max_tiles=9", "seed=3"]
    )
    assert run.stage == "1.2"
    assert (run.recipe.stages["1.2"].batch.max_tiles, run.recipe.seed) == (9, 3)
    with raises_code(UserError, "VT-USE-007", "--stage", "3.1"):
        public_run(BASE, stage="3.1")


def test_like_public_keeps_what_the_public_code_does() -> None:
    run = public_run(
        [*BASE, *["--model_max_length", "33300", "--image_aspect_ratio", "square"]],
        like_public=True,
    )
    assert run.recipe.model.llm.max_positions == 33300
    assert run.recipe.data.image.single_tile == "crop"
    check_recipe(run.recipe)
