"""Every argument of the public trainer, those of the training library that its scripts use, and
ours.

Names, types and defaults are those of the public code (VITA-MLLM/VITA at 35d064a, transformers
4.41). The document ``docs/public-arguments.md`` is made from this table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Value = bool | int | float | str | None
Kind = type[bool] | type[int] | type[float] | type[str]
Group = Literal["Model", "Data", "Training", "Library", "Ours"]

GROUPS: dict[Group, str] = {
    "Model": "Model arguments of the public code",
    "Data": "Data arguments of the public code",
    "Training": "Training arguments of the public code",
    "Library": "Arguments of the training library that scripts and documents use",
    "Ours": "Arguments of our own",
}


@dataclass(frozen=True)
class Flag:
    """One argument."""

    group: Group
    name: str
    kind: Kind
    default: Value
    becomes: str
    """The setting of the recipe that it turns into, or what it does."""
    note: str = ""
    """What is said when it is given, because the public code ignored it or did something else."""
    choices: tuple[str, ...] = ()
    """The only values there are, with * for any characters; empty where any will do."""


#: Old name of an argument to the name it is read under.
RENAMED: dict[str, str] = {
    "evaluation_strategy": "eval_strategy",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "activation_checkpointing": "gradient_checkpointing",
    "tune_audio_adapter": "tune_audio_mlp_adapter",
    "tune_audio_projector": "tune_audio_mlp_adapter",
    "freeze_audio_projector": "freeze_audio_encoder_adapter",
    "freeze_audio_adapter": "freeze_audio_encoder_adapter",
}

MODEL_TYPES = ("qwen2p5_instruct", "qwen2p5_fo_instruct", "mixtral-8x7b", "nemo", "llama3-8b")
VERSIONS = (
    "qwen2p5_instruct",
    "nemo",
    "mixtral_two",
    "mixtral_zh",
    "default",
    "phi3",
    "minicpm",
    "llama",
    "llama3",
    "plain",
)
#: Optimizers of the training library that there are here, and what each is.
OPTIMIZERS: dict[str, str] = {
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adamw_hf": "adamw",
    "adafactor": "adafactor",
    "adamw_bnb_8bit": "adamw_8bit",
    "adamw_8bit": "adamw_8bit",
}
PROJECTORS = (
    "mlp*x_gelu",
    "linear",
    "spp*v1",
    "spp*v2",
    "spp*v3",
    "ldp",
    "vanilla",
    "minigpt",
    "identity",
)
TOWERS = ("internvit", "siglip", "eva", "clip")

_LORA_ONLY = "has no effect without --lora_enable"

_MODEL = (
    Flag(
        "Model",
        "model_name_or_path",
        str,
        None,
        "model.llm.source, tokenizer.source; also weights of the projector "
        "and the audio adapter where a stage needs them and no other flag names them",
    ),
    Flag(
        "Model",
        "model_type",
        str,
        None,
        "model.llm.family; qwen2p5_instruct when not given; llama3-8b is one of ours",
        choices=MODEL_TYPES,
    ),
    Flag(
        "Model",
        "version",
        str,
        None,
        "data.template; the model type's own when not given",
        choices=VERSIONS,
    ),
    Flag("Model", "freeze_backbone", bool, False, "no llm among what trains"),
    Flag(
        "Model",
        "tune_mm_mlp_adapter",
        bool,
        False,
        "the projector alone trains; with --tune_audio_mlp_adapter both",
    ),
    Flag(
        "Model",
        "tune_audio_mlp_adapter",
        bool,
        False,
        "the audio adapter alone trains; with --tune_mm_mlp_adapter both",
    ),
    Flag("Model", "audio_prompt_finetune", bool, False, "the audio prompt alone trains"),
    Flag(
        "Model",
        "audio_prompt_num",
        int,
        None,
        "model.audio_adapter.prompt_tokens",
        note="has no effect without --audio_prompt_finetune",
    ),
    Flag(
        "Model",
        "audio_state_predictor_tuning",
        bool,
        False,
        "the state head alone trains; data.state_mode head",
    ),
    Flag(
        "Model",
        "vision_tower",
        str,
        None,
        "model.vision.source; its kind follows from the name; without it a run is of text and "
        "audio alone",
    ),
    Flag(
        "Model",
        "audio_encoder",
        str,
        None,
        "weights.audio_encoder: an import, an export, a stage's folder or a safetensors file",
    ),
    Flag("Model", "freeze_audio_encoder", bool, True, "False: the audio encoder trains"),
    Flag("Model", "freeze_audio_encoder_adapter", bool, True, "False: the audio adapter trains"),
    Flag("Model", "unfreeze_vision_tower", bool, False, "the vision tower trains"),
    Flag("Model", "use_s2", bool, False, "model.vision.scales: 384, 768 and 1152 joined"),
    Flag("Model", "pretrain_mm_mlp_adapter", str, None, "weights.projector, likewise"),
    Flag("Model", "pretrain_audio_mlp_adapter", str, None, "weights.audio_adapter, likewise"),
    Flag(
        "Model", "mm_projector_type", str, "mlp2x_gelu", "model.projector.kind", choices=PROJECTORS
    ),
)
_DATA = (
    Flag("Data", "dataset_use", str, "temp", "dataset or group of the registry; must be given"),
    Flag(
        "Data",
        "lazy_preprocess",
        bool,
        False,
        "nothing",
        note="is ignored by the public code; here records are always prepared once and read lazily",
    ),
    Flag("Data", "is_multimodal", bool, True, "must stay True"),
    Flag(
        "Data",
        "image_folder",
        str,
        None,
        "data.source.records.image_folder",
    ),
    Flag(
        "Data",
        "image_aspect_ratio",
        str,
        None,
        "data.image.single_tile: pad, else squash (crop with --like-public)",
    ),
    Flag("Data", "min_dynamic_patch", int, 1, "data.image.min_tiles"),
    Flag("Data", "max_dynamic_patch", int, 12, "data.image.max_tiles"),
    Flag("Data", "use_thumbnail", bool, True, "data.image.thumbnail"),
)
_TRAINING = (
    Flag(
        "Training",
        "cache_dir",
        str,
        None,
        "HF_HUB_CACHE of this run's processes: where the hub's files are kept",
    ),
    Flag("Training", "optim", str, "adamw_torch", "optim.kind"),
    Flag(
        "Training",
        "remove_unused_columns",
        bool,
        False,
        "nothing",
        note="has no meaning here: a sample has no columns",
    ),
    Flag("Training", "freeze_mm_mlp_adapter", bool, False, "no projector among what trains"),
    Flag(
        "Training",
        "mpt_attn_impl",
        str,
        "triton",
        "nothing",
        note="is ignored by the public code; here model.llm.attention chooses the kernel",
    ),
    Flag("Training", "model_max_length", int, 512, "batch.seq_len"),
    Flag("Training", "bits", int, 16, "the stage's quantize", choices=("4", "8", "16")),
    Flag(
        "Training",
        "quant_type",
        str,
        "nf4",
        "quantize.kind",
        choices=("nf4", "fp4"),
        note="has no effect without --bits 4",
    ),
    Flag(
        "Training",
        "double_quant",
        bool,
        True,
        "quantize.double",
        note="has no effect without --bits 4 or 8",
    ),
    Flag("Training", "lora_enable", bool, False, "the stage's lora, on the language model alone"),
    Flag("Training", "lora_r", int, 64, "lora.rank", note=_LORA_ONLY),
    Flag("Training", "lora_alpha", int, 16, "lora.alpha", note=_LORA_ONLY),
    Flag("Training", "lora_dropout", float, 0.05, "lora.dropout", note=_LORA_ONLY),
    Flag(
        "Training",
        "lora_weight_path",
        str,
        "",
        "nothing",
        note="is ignored by the public code, and here",
    ),
    Flag(
        "Training",
        "lora_bias",
        str,
        "none",
        "lora.bias",
        choices=("none", "all", "lora_only"),
        note=_LORA_ONLY,
    ),
    Flag(
        "Training",
        "mm_projector_lr",
        float,
        None,
        "trainable.vision: its rate",
        note="is the rate of the vision tower, in the public code as well; the projector learns at "
        "--learning_rate",
    ),
    Flag(
        "Training",
        "group_by_modality_length",
        bool,
        False,
        "batch.packing false, batch.group_by_modality_length",
    ),
)
_LIBRARY = (
    Flag(
        "Library",
        "output_dir",
        str,
        None,
        "storage.root and the run's name: its last part; must be given",
    ),
    Flag(
        "Library",
        "run_name",
        str,
        None,
        "tracking.run_name: what trackers call it; the run itself is named after --output_dir",
    ),
    Flag("Library", "num_train_epochs", float, 3.0, "epochs"),
    Flag("Library", "max_steps", int, -1, "steps, in place of epochs, when above 0"),
    Flag(
        "Library",
        "per_device_train_batch_size",
        int,
        8,
        "batch.global_batch_size: times accumulation and processes",
    ),
    Flag(
        "Library",
        "per_device_eval_batch_size",
        int,
        8,
        "nothing",
        note="has no effect: measurements use the batches of training",
    ),
    Flag("Library", "gradient_accumulation_steps", int, 1, "batch.grad_accum"),
    Flag(
        "Library", "learning_rate", float, 5e-5, "trainable: the rate of every module that trains"
    ),
    Flag("Library", "weight_decay", float, 0.0, "optim.weight_decay"),
    Flag("Library", "adam_beta1", float, 0.9, "optim.betas"),
    Flag("Library", "adam_beta2", float, 0.999, "optim.betas"),
    Flag("Library", "adam_epsilon", float, 1e-8, "optim.eps"),
    Flag("Library", "max_grad_norm", float, 1.0, "optim.max_grad_norm"),
    Flag("Library", "warmup_ratio", float, 0.0, "optim.warmup"),
    Flag(
        "Library", "warmup_steps", float, 0.0, "optim.warmup, in place of the ratio, when above 0"
    ),
    Flag("Library", "lr_scheduler_type", str, "linear", "optim.schedule"),
    Flag("Library", "bf16", bool, False, "model.dtype and engine.dtype: bfloat16, else float32"),
    Flag("Library", "fp16", bool, False, "engine.dtype float16, with a dynamic loss scale"),
    Flag(
        "Library", "tf32", bool, None, "nothing", note="has no effect: bfloat16 has no use for it"
    ),
    Flag("Library", "gradient_checkpointing", bool, False, "engine.checkpoint_activations"),
    Flag("Library", "deepspeed", str, None, "engine.kind deepspeed, engine.zero, engine.offload"),
    Flag(
        "Library",
        "local_rank",
        int,
        -1,
        "nothing",
        note="has no effect: processes find their rank themselves",
    ),
    Flag("Library", "ddp_timeout", int, 1800, "launch.step_timeout, when given"),
    Flag("Library", "dataloader_num_workers", int, 0, "launch.workers"),
    Flag(
        "Library",
        "eval_strategy",
        str,
        "no",
        "eval.interval: 0 for no, else --eval_steps",
        choices=("no", "steps", "epoch"),
    ),
    Flag("Library", "eval_steps", float, None, "eval.interval; --logging_steps when not given"),
    Flag(
        "Library",
        "save_strategy",
        str,
        "steps",
        "steps only",
        choices=("no", "steps", "epoch", "best"),
    ),
    Flag("Library", "save_steps", float, 500.0, "checkpoint_interval"),
    Flag("Library", "save_total_limit", int, None, "storage.keep_last, when given"),
    Flag(
        "Library",
        "logging_steps",
        float,
        500.0,
        "eval.interval where --eval_steps is not given",
        note="does not thin the log: every step is logged",
    ),
    Flag(
        "Library",
        "report_to",
        str,
        None,
        "tracking: none, tensorboard, wandb, or several with commas",
    ),
    Flag(
        "Library",
        "resume_from_checkpoint",
        str,
        None,
        "nothing where True: the same command goes on from the newest whole checkpoint; a path: "
        "so it does, and is refused, with the differences, where the run had other settings",
    ),
    Flag(
        "Library",
        "seed",
        int,
        42,
        "seed",
        note="counts for all that is drawn; in the public code it does little",
    ),
)
_OURS = (
    Flag(
        "Ours",
        "registry",
        str,
        "registry.json",
        "data.source.records.registry: where dataset_use is looked up",
    ),
    Flag(
        "Ours",
        "data_ratio",
        float,
        1.0,
        "the weight of the dataset: 0.2 takes a fifth, 2 takes each record twice",
    ),
    Flag(
        "Ours",
        "projector_lr",
        float,
        None,
        "trainable.projector: its rate",
    ),
    Flag("Ours", "max_reject_share", float, 0.0, "data.max_reject_share"),
    Flag(
        "Ours",
        "vision_tower_type",
        str,
        None,
        "model.vision.kind; else taken from the tower's name",
        choices=TOWERS,
    ),
    Flag("Ours", "fps", float, 1.0, "data.video.fps; one a second when not given"),
    Flag("Ours", "min_video_frames", int, 4, "data.video.min_frames"),
    Flag("Ours", "max_video_frames", int, 16, "data.video.max_frames"),
    Flag("Ours", "max_audio_seconds", float, 60.0, "data.audio.max_seconds"),
    Flag(
        "Ours",
        "state_mode",
        str,
        "glyph",
        "data.state_mode",
        choices=("none", "glyph", "digit", "head"),
    ),
    Flag("Ours", "tile_video", bool, False, "data.video.tile_frames"),
    Flag("Ours", "slowfast", bool, False, "data.video.slowfast"),
    Flag("Ours", "nnodes", int, 1, "launch.nodes"),
    Flag("Ours", "nproc_per_node", int, 1, "launch.nproc"),
    Flag("Ours", "wandb_project", str, None, "tracking.wandb_project"),
    Flag("Ours", "debug_mode", bool, False, "no trackers; NCCL_DEBUG=INFO in the pods"),
)

#: Every argument by name, in the order of the document.
FLAGS: dict[str, Flag] = {
    flag.name: flag for flag in (*_MODEL, *_DATA, *_TRAINING, *_LIBRARY, *_OURS)
}
