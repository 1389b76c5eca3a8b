"""The settings of the 17 public launch scripts, as the flags they pass.

What stands for the authors' own folders are names that a user replaces: ``runs/...`` for what an
earlier script wrote, hub names for what is published there.
"""

from __future__ import annotations

from vita_train.compat.vita.build import PublicRun, public_run
from vita_train.errors import UserError

_COMMON = """
--lazy_preprocess True --report_to none --image_aspect_ratio square --group_by_modality_length False
--mm_projector_type mlp2x_gelu --deepspeed zero3.json --num_train_epochs 1
--per_device_eval_batch_size 4 --evaluation_strategy no --save_strategy steps --weight_decay 0.
--warmup_ratio 0.03 --lr_scheduler_type cosine --logging_steps 1 --tf32 True --bf16 True
--gradient_checkpointing True --freeze_audio_encoder True --per_device_train_batch_size 8
--gradient_accumulation_steps 2 --model_max_length 6200 --save_steps 500 --save_total_limit 1
--dataloader_num_workers 4"""
_INTERNVIT = "--vision_tower OpenGVLab/InternViT-300M-448px"
_SIGLIP = "--vision_tower google/siglip-so400m-patch14-384"
_MIXTRAL_TYPE = (
    "--model_type mixtral-8x7b --version mixtral_two "
    "--audio_encoder audio-encoder-2wh_zh_en_audioset_Mixtral-8x7B_New-base-tunning"
)
_MIXTRAL = f"--model_name_or_path mistralai/Mixtral-8x7B-Instruct-v0.1 {_MIXTRAL_TYPE} {_INTERNVIT}"
_QWEN_TYPE = (
    "--model_type qwen2p5_instruct --version qwen2p5_instruct "
    "--audio_encoder audio-encoder_Mixtral-8x7B_New_dim3584"
)
_QWEN = f"--model_name_or_path Qwen/Qwen2.5-7B-Instruct {_QWEN_TYPE}"
_NEG = (
    "--model_name_or_path runs/llava-s3-finetune_task --version qwen2p5_instruct "
    f"--audio_encoder audio-encoder-Qwen2-7B-1107-weight-base-11wh-tunning {_INTERNVIT} "
    "--dataset_use Pretrain_video --output_dir runs/llava-s3-finetune_task_neg"
)
_FO = (
    f"{_NEG} --model_type qwen2p5_fo_instruct --freeze_audio_encoder_adapter True "
    f"--audio_prompt_finetune True "
    "--audio_prompt_num 25 --audio_state_predictor_tuning False --learning_rate 1e-4"
)

_S1 = (
    "--tune_mm_mlp_adapter True --freeze_audio_encoder_adapter True --learning_rate 5e-4 "
    "--output_dir runs/llava-s1-pretrain_mlp_video"
)
_S2 = (
    "--pretrain_mm_mlp_adapter runs/llava-s1-pretrain_mlp_video/1.1 "
    "--freeze_audio_encoder_adapter True --learning_rate 2e-5 --output_dir "
    "runs/llava-s2-pretrain_video"
)
_S2_QWEN = (
    f"{_S2} --unfreeze_vision_tower True --mm_projector_lr 2e-6 --dataset_use Pretrain_video0"
)
_S3 = (
    "--freeze_audio_encoder_adapter True --learning_rate 2e-5 --model_name_or_path "
    "runs/llava-s2-pretrain_video "
    "--output_dir runs/llava-s3-finetune_task"
)
_S3_QWEN = f"{_QWEN_TYPE} {_INTERNVIT} {_S3} --dataset_use Pretrain_video0"
_AUDIO = (
    f"{_QWEN} {_INTERNVIT} --tune_mm_mlp_adapter False --tune_audio_mlp_adapter True "
    "--freeze_audio_encoder_adapter False --learning_rate 5e-4 --dataset_use Pretrain_audio "
    "--output_dir runs/llava-s1-pretrain_audio_mlp"
)
_NEG_QWEN = f"{_NEG} --model_type qwen2p5_instruct --freeze_audio_encoder_adapter False"

_ON_8 = "--nproc_per_node 8"
_ON_4X8 = "--nnodes 4 --nproc_per_node 8"

#: Flags that each script passes beside the common ones; the last of several counts.
SCRIPTS: dict[str, str] = {
    "pretrain_mlp": f"{_MIXTRAL} {_S1} --dataset_use Pretrain_video {_ON_8}",
    "pretrain_mlp_nodes": f"{_MIXTRAL} {_S1} --dataset_use Pretrain_video {_ON_4X8}",
    "pretrain_mlp_qwen": f"{_QWEN} {_SIGLIP} {_S1} --dataset_use Pretrain_video0 "
    f"--dataloader_num_workers 0",
    "pretrain_mlp_qwen_nodes": f"{_QWEN} {_SIGLIP} {_S1} --dataset_use Pretrain_video0 {_ON_4X8}",
    "finetune": f"{_MIXTRAL} {_S2} --dataset_use Pretrain_video --gradient_accumulation_steps 1 "
    "--model_max_length 9100 --dataloader_num_workers 0",
    "finetune_nodes": f"{_MIXTRAL} {_S2} --dataset_use Pretrain_video --model_max_length 4500 "
    f"--save_total_limit 2 "
    "--ddp_timeout 25200 --nnodes 5 --nproc_per_node 8",
    "finetune_qwen": f"{_QWEN} {_INTERNVIT} {_S2_QWEN} {_ON_8}",
    "finetune_qwen_nodes": f"{_QWEN} {_INTERNVIT} {_S2_QWEN} {_ON_4X8}",
    "finetuneTask_nodes": f"{_MIXTRAL_TYPE} {_INTERNVIT} {_S3} --dataset_use Pretrain_video "
    f"--model_max_length 9100 "
    "--per_device_train_batch_size 6 --save_total_limit 2 --ddp_timeout 25200 --nnodes 3 "
    "--nproc_per_node 8",
    "finetuneTask_qwen": f"{_S3_QWEN} --per_device_train_batch_size 1 --model_max_length 33300 "
    f"{_ON_8}",
    "finetuneTask_qwen_nodes": f"{_S3_QWEN} --model_name_or_path runs/llava-s3-finetune_task_ovsi "
    f"--nnodes 2 {_ON_8}",
    "pretrain_audio_mlp_qwen": f"{_AUDIO} --save_steps 200 {_ON_8}",
    "pretrain_audio_mlp_qwen_nodes": f"{_AUDIO} {_ON_4X8}",
    "finetuneTaskNeg_qwen": f"{_NEG_QWEN} --learning_rate 2e-5",
    "finetuneTaskNeg_qwen_nodes": f"{_NEG_QWEN} --learning_rate 1e-5 {_ON_4X8}",
    "finetuneTaskNeg_qwen_fo": _FO,
    "finetuneTaskNeg_qwen_fo_nodes": f"{_FO} {_ON_4X8}",
}

#: Scripts that documents name and the public code does not have.
ALIASES: dict[str, str] = {"finetuneTask": "finetuneTask_nodes"}


def script_name(name: str) -> str | None:
    """Return the script that a name stands for, ``.sh`` or not; None if there is none."""
    key = name.removesuffix(".sh")
    key = ALIASES.get(key, key)
    return key if key in SCRIPTS else None


def script_words(name: str) -> list[str]:
    """Return the command line of a script."""
    return f"{_COMMON} {SCRIPTS[name]}".split()


def script_run(name: str) -> PublicRun:
    """Return what a script asks for. Where its flags contradict each other, it is read as the
    public code does.

    Raises:
        UserError: no recipe can say yet what it asks for.
    """
    try:
        return public_run(script_words(name), like_public=True)
    except UserError as error:
        raise UserError(
            error.what, code=error.code, where=f"{name}.sh", remedy=error.remedy
        ) from None


def describe_scripts() -> dict[str, str]:
    """Return each script's name with the stage it runs, or with what is missing for it."""
    return {name: _described(name) for name in SCRIPTS}


def _described(name: str) -> str:
    try:
        run = script_run(name)
    except UserError as error:
        return f"Public script. {error.what[0].upper()}{error.what[1:]}."
    trained, ranks = run.recipe.stages[run.stage].trainable, run.recipe.launch.ranks
    return (
        f"Public script. Stage {run.stage}: trains {', '.join(trained)} on {ranks} "
        f"GPU{'s'[: ranks - 1]}."
    )
