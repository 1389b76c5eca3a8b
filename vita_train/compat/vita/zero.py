"""What a DeepSpeed configuration file says that a recipe can say as well."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vita_train.errors import UserError

Offload = Literal["none", "optimizer", "all"]


class Zero(NamedTuple):
    """The settings of a DeepSpeed file that matter here."""

    stage: int
    offload: Offload
    scheduler: str
    """The ``--lr_scheduler_type`` that a scheduler in the file amounts to; empty if there is
    none."""
    stated: tuple[tuple[str, Any], ...] = ()
    """Settings of the file that flags state too, by their dotted names, where they are not
    ``auto``."""
    ignored: tuple[str, ...] = ()
    """Settings of the file that have no effect here, by their dotted names."""


#: Settings that a flag states too: the two must agree. ``[0]`` is the first of a list.
FLAG_OF = {
    "train_micro_batch_size_per_gpu": "per_device_train_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "gradient_clipping": "max_grad_norm",
    "bf16.enabled": "bf16",
    "fp16.enabled": "fp16",
    "optimizer.params.lr": "learning_rate",
    "optimizer.params.betas[0]": "adam_beta1",
    "optimizer.params.betas[1]": "adam_beta2",
    "optimizer.params.eps": "adam_epsilon",
    "optimizer.params.weight_decay": "weight_decay",
    "scheduler.params.warmup_max_lr": "learning_rate",
}
#: Settings that are read. ``train_batch_size`` is held against the product that it stands for.
_READ = {
    "train_batch_size",
    "zero_optimization.stage",
    "zero_optimization.offload_optimizer.device",
    "zero_optimization.offload_param.device",
    "optimizer.type",
    "scheduler.type",
    *FLAG_OF,
}
_OFFLOAD = {
    "device": None,
    **dict.fromkeys(("nvme_path", "buffer_count", "buffer_size", "pin_memory", "max_in_cpu")),
    **dict.fromkeys(("pipeline", "pipeline_read", "pipeline_write", "fast_init", "ratio")),
}
_FLOAT = dict.fromkeys(
    (
        "enabled",
        "auto_cast",
        "loss_scale",
        "initial_scale_power",
        "loss_scale_window",
        "hysteresis",
        "consecutive_hysteresis",
        "min_loss_scale",
        "immediate_grad_update",
    )
)
#: Every key that a DeepSpeed file may have; None is a value, and ``ANY`` what is not looked into.
ANY: dict[str, Any] = {}
_KEYS: dict[str, Any] = {
    "zero_optimization": {
        "stage": None,
        "offload_optimizer": _OFFLOAD,
        "offload_param": _OFFLOAD,
        **dict.fromkeys(
            (
                "allgather_partitions",
                "allgather_bucket_size",
                "overlap_comm",
                "reduce_scatter",
                "reduce_bucket_size",
                "contiguous_gradients",
                "round_robin_gradients",
                "sub_group_size",
                "cpu_offload",
                "ignore_unused_parameters",
                "elastic_checkpoint",
                "load_from_fp32_weights",
                "legacy_stage1",
                "stage3_prefetch_bucket_size",
                "stage3_param_persistence_threshold",
                "stage3_model_persistence_threshold",
                "stage3_max_live_parameters",
                "stage3_max_reuse_distance",
                "stage3_gather_16bit_weights_on_model_save",
                "stage3_gather_fp16_weights_on_model_save",
                "stage3_use_all_reduce_for_fetch_params",
                "stage3_module_granularity_threshold",
                "memory_efficient_linear",
                "override_module_apply",
                "use_multi_rank_bucket_allreduce",
                "zero_hpz_partition_size",
                "zero_quantized_weights",
                "zero_quantized_nontrainable_weights",
                "zero_quantized_gradients",
                "mics_shard_size",
                "mics_hierarchical_params_gather",
                "leaf_module",
                "log_trace_cache_warnings",
            )
        ),
    },
    "bf16": _FLOAT,
    "fp16": _FLOAT,
    "optimizer": {
        "type": None,
        "params": dict.fromkeys(
            ("lr", "betas", "eps", "weight_decay", "torch_adam", "adam_w_mode", "bias_correction")
        ),
    },
    "scheduler": {
        "type": None,
        "params": dict.fromkeys(
            (
                "warmup_min_lr",
                "warmup_max_lr",
                "warmup_num_steps",
                "warmup_type",
                "total_num_steps",
                "warmup_min_ratio",
                "cos_min_ratio",
                "last_batch_iteration",
            )
        ),
    },
    **dict.fromkeys(
        (
            "train_batch_size",
            "train_micro_batch_size_per_gpu",
            "gradient_accumulation_steps",
            "gradient_clipping",
            "prescale_gradients",
            "gradient_predivide_factor",
            "sparse_gradients",
            "communication_data_type",
            "seq_parallel_communication_data_type",
            "steps_per_print",
            "wall_clock_breakdown",
            "dump_state",
            "memory_breakdown",
            "disable_allgather",
            "dataloader_drop_last",
            "zero_allow_untested_optimizer",
            "zero_force_ds_cpu_optimizer",
            "graph_harvesting",
            "use_data_before_expert_parallelism",
            "train_steps",
        )
    ),
    **dict.fromkeys(
        (
            "activation_checkpointing",
            "aio",
            "amp",
            "autotuning",
            "checkpoint",
            "comms_logger",
            "compile",
            "compression_training",
            "csv_monitor",
            "curriculum_learning",
            "data_efficiency",
            "data_types",
            "elasticity",
            "eigenvalue",
            "flops_profiler",
            "hybrid_engine",
            "pipeline",
            "progressive_layer_drop",
            "sparse_attention",
            "tensor_parallel",
            "tensorboard",
            "timers",
            "torch_autocast",
            "wandb",
            "weight_quantization",
            "zenflow",
        ),
        ANY,
    ),
}
#: Optimizers by DeepSpeed's names that amount to ours.
_OPTIMIZERS = ("adam", "adamw")

#: DeepSpeed's schedulers by the library's names.
_SCHEDULERS = {
    "WarmupDecayLR": "linear",
    "WarmupCosineLR": "cosine",
    "WarmupLR": "constant_with_warmup",
}

#: The public code's own files, known by name where they are not at hand, and xtuner's presets.
SHIPPED: dict[str, Zero] = {
    "zero2.json": Zero(2, "none", ""),
    "zero3.json": Zero(3, "none", ""),
    "ds_config_zero3.json": Zero(3, "none", "linear"),
    "ds_config_zero3_offload.json": Zero(3, "all", "linear"),
    "ds_config_zero3_offload2.json": Zero(3, "optimizer", "linear"),
    "deepspeed_zero1": Zero(1, "none", ""),
    "deepspeed_zero2": Zero(2, "none", ""),
    "deepspeed_zero2_offload": Zero(2, "optimizer", ""),
    "deepspeed_zero3": Zero(3, "none", ""),
    "deepspeed_zero3_offload": Zero(3, "all", ""),
}


def read_zero(name: str) -> Zero:
    """Read a DeepSpeed file; those of the public code need not be there.

    Raises:
        UserError: it cannot be read, or says something that is not understood.
    """
    path = Path(name).expanduser()
    where = f"--deepspeed {name}"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if path.name in SHIPPED:
            return SHIPPED[path.name]
        raise UserError(
            "there is no such file",
            code="VT-USE-022",
            where=where,
            remedy=f"give a DeepSpeed file, or one of {', '.join(SHIPPED)}",
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(
            "is not a JSON file that can be read", code="VT-USE-023", where=where
        ) from error
    zero = _mapping(config, "zero_optimization", where)
    _check_keys(config, _KEYS, "", where)
    stage = zero.get("stage", 0)
    if stage not in (0, 1, 2, 3):
        raise UserError(
            f"zero_optimization.stage is {stage!r}",
            code="VT-USE-024",
            where=where,
            remedy="it is 0, 1, 2 or 3",
        )
    parameters = _is_offloaded(zero, "offload_param", where)
    optimizer = _is_offloaded(zero, "offload_optimizer", where)
    if parameters and not optimizer:
        raise UserError(
            "parameters are offloaded without the optimizer's state",
            code="VT-USE-025",
            where=where,
            remedy="offload both, or the optimizer alone",
        )
    offload: Offload = "all" if parameters else "optimizer" if optimizer else "none"
    scheduler = _mapping(config, "scheduler", where).get("type")
    if scheduler is not None and scheduler not in _SCHEDULERS:
        raise UserError(
            f"not yet supported: scheduler {scheduler}",
            code="VT-USE-026",
            where=where,
            remedy="remove it from the file",
        )
    optimizer_type = _mapping(config, "optimizer", where).get("type", "AdamW")
    if str(optimizer_type).lower() not in _OPTIMIZERS:
        raise UserError(
            f"not yet supported: optimizer {optimizer_type}",
            code="VT-USE-220",
            where=where,
            remedy="remove it from the file; AdamW is used",
        )
    values = [(name, value) for name, value in _leaves(config, _KEYS) if value != "auto"]
    return Zero(
        stage,
        offload,
        _SCHEDULERS[scheduler] if scheduler else "",
        tuple((name, value) for name, value in values if name in {"train_batch_size", *FLAG_OF}),
        tuple(name for name, _ in values if name not in _READ),
    )


def disagreements(zero: Zero, arguments: Mapping[str, Any], ranks: int) -> list[str]:
    """Return a line for each setting of the file that says something else than the command line.

    Args:
        zero: the file.
        arguments: value of each flag of ``FLAG_OF``.
        ranks: processes of the job.
    """
    lines = []
    for name, value in zero.stated:
        if name == "train_batch_size":
            wanted = (
                arguments["per_device_train_batch_size"]
                * arguments["gradient_accumulation_steps"]
                * ranks
            )
            flag = f"per_device_train_batch_size x gradient_accumulation_steps x {ranks} processes"
        else:
            flag, wanted = FLAG_OF[name], arguments[FLAG_OF[name]]
        if value != wanted:
            lines.append(f"{name} is {value}, --{flag} {wanted}")
    return lines


def _check_keys(value: dict[str, Any], known: Mapping[str, Any], prefix: str, where: str) -> None:
    """Refuse keys that DeepSpeed does not know; it passes over them without a word.

    Raises:
        UserError: the key, and the nearest that there is.
    """
    for key, inner in value.items():
        if key not in known:
            near = get_close_matches(key, known, n=1)
            raise UserError(
                f"there is no setting {prefix}{key}",
                code="VT-USE-221",
                where=where,
                remedy=f"did you mean {near[0]}?" if near else "remove it from the file",
            )
        if known[key] is None or known[key] is ANY:
            continue
        if not isinstance(inner, dict):
            raise UserError(
                f"{prefix}{key} is no JSON object",
                code="VT-USE-222",
                where=where,
                remedy=f"its settings are {', '.join(known[key])}",
            )
        _check_keys(inner, known[key], f"{prefix}{key}.", where)


def _leaves(
    value: Mapping[str, Any], known: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and value of every setting; sections that are not looked into count as
    one."""
    for key, inner in value.items():
        if known[key]:
            yield from _leaves(inner, known[key], f"{prefix}{key}.")
        elif key == "betas" and isinstance(inner, list):
            yield from ((f"{prefix}{key}[{place}]", beta) for place, beta in enumerate(inner))
        else:
            yield f"{prefix}{key}", inner


def _is_offloaded(zero: dict[str, Any], key: str, where: str) -> bool:
    return _mapping(zero, key, where).get("device", "none") != "none"


def _mapping(value: Any, key: str, where: str) -> dict[str, Any]:
    inner = value.get(key, {}) if isinstance(value, dict) else None
    if not isinstance(inner, dict):
        raise UserError(f"{key} is no JSON object", code="VT-USE-027", where=where)
    return inner
