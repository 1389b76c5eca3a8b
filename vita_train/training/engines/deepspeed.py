"""DeepSpeed, ZeRO 0 to 3, with torch's AdamW as client optimizer and the loop's own schedule.

Nothing is compiled on the way: no fused optimizer, no shared-memory collective, so that a machine
without a compiler trains too.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vita_train.errors import CheckpointError
from vita_train.training.engines.base import (
    EngineContext,
    State,
    detached,
    groups_of,
    phase_parameters,
    return_tuples,
    set_rates,
    trained_children,
    trained_state,
)
from vita_train.training.engines.fsdp2 import sync_buffers
from vita_train.training.objectives.base import LossOutput, Objective

_TAG = "state"
_UNIVERSAL = "universal"
_BUCKET = 500_000_000
#: Parameters of a tensor up to which ZeRO-3 leaves it on every rank.
_PERSISTENT = 100_000


class DeepSpeedEngine:
    """Weights in the compute type, float32 master weights and state in the optimizer."""

    reads_own_files = False  # DeepSpeed wants to see the files of every rank

    def __init__(self, objective: Objective, context: EngineContext) -> None:
        deepspeed = import_deepspeed(context.world.device.type)
        self.objective = objective
        self.world = context.world
        self.zero = context.spec.engine.zero
        return_tuples(objective)
        groups = groups_of(objective, context.spec, "main")
        self._parameters = phase_parameters(objective, "main")
        optimizer = torch.optim.AdamW(
            groups, betas=context.spec.optim.betas, eps=context.spec.optim.eps
        )
        trained = sum(parameter.numel() for parameter in self._parameters)
        config = engine_config(context, bucket=bucket_size(trained))
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=objective, optimizer=optimizer, config=config, dist_init_required=False
        )
        self._grad_accum = context.spec.batch.grad_accum

    def forward_backward(self, batch: Any, phase: str, scale: float, *, last: bool) -> LossOutput:
        # Said by hand: DeepSpeed counts its own step(), which the loop calls after the last
        # micro-batch alone
        self._engine.set_gradient_accumulation_boundary(last)
        output = LossOutput(*self._engine(batch, phase))
        # DeepSpeed divides by accumulation and averages over ranks; the product of the factors is a
        # plain sum.
        self._engine.backward(output.loss_sum * (scale * self.world.size * self._grad_accum))
        return detached(output)

    def evaluate(self, batch: Any) -> LossOutput:
        self._engine.eval()
        with torch.no_grad():
            output = LossOutput(*self._engine(batch))
        self._engine.train()
        return output

    def step(self, phase: str, factor: float) -> Tensor | float:
        set_rates(self._engine.optimizer.param_groups, factor)
        # ZeRO-0 in float32 clips without telling the norm; gradients are already summed over ranks
        # here.
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        before = (
            float(torch.nn.utils.get_total_norm(gradients)) if self.zero == 0 and gradients else 0.0
        )
        if not math.isfinite(
            before
        ):  # all but ZeRO-0 in float32 leave such an update out by themselves
            self._engine.zero_grad()
            return before
        self._engine.step()
        # ZeRO has left the update out by itself, and its norm is that of an earlier step
        if getattr(self._engine.optimizer, "overflow", False):
            return math.inf
        norm = self._engine.get_global_grad_norm()
        return float(norm) if norm is not None else before

    def spare_skips(self) -> int:
        return 0

    def norms(self) -> dict[str, float]:
        return {}

    def save(self, directory: Path) -> None:
        sync_buffers(self.objective)
        # Without this key DeepSpeed will not convert the state for another number of ranks.
        self._engine.save_checkpoint(
            str(directory),
            tag=_TAG,
            client_state={"universal_checkpoint_info": {}},
            save_latest=False,
            exclude_frozen_parameters=True,
        )
        if self.world.rank == 0:
            (directory / "world_size").write_text(
                f"{self.world.size} {self.zero}\n", encoding="utf-8"
            )

    def load(self, directory: Path) -> None:
        path = directory / "world_size"
        if not path.exists():
            raise CheckpointError(
                "the checkpoint was not written by engine deepspeed",
                code="VT-WEIGHTS-011",
                where=str(directory),
                remedy="continue with the engine that wrote it, or start the stage under a new run "
                "name",
            )
        world, zero = (int(part) for part in path.read_text(encoding="utf-8").split())
        if zero != self.zero:
            raise CheckpointError(
                f"the checkpoint was written under ZeRO-{zero}, this job runs ZeRO-{self.zero}",
                code="VT-WEIGHTS-012",
                where=str(directory),
                remedy=f"continue with engine.zero {zero}, or use engine fsdp2 or torch",
            )
        if world == self.world.size or zero == 0:
            # Not strict: frozen parameters are in no checkpoint
            self._engine.load_checkpoint(str(directory), tag=_TAG, load_module_strict=False)
        else:
            self._load_for_other_ranks(directory)

    def _load_for_other_ranks(self, directory: Path) -> None:
        """Load state that another number of ranks wrote: cut by parameter first, DeepSpeed's
        universal format."""
        if self.world.local_rank == 0:  # each node has its own copy of the checkpoint
            convert_to_universal(directory / _TAG, directory / _UNIVERSAL)
        # No rank may read before the files of its node are there
        torch.distributed.barrier()
        groups = self._engine.optimizer.param_groups
        settings = [
            {key: value for key, value in group.items() if key != "params"} for group in groups
        ]
        config = self._engine._config
        config.load_universal_checkpoint = True
        try:
            self._engine.load_checkpoint(str(directory), tag=_UNIVERSAL, load_module_strict=False)
        finally:
            config.load_universal_checkpoint = False
        for group, own in zip(self._engine.optimizer.param_groups, settings, strict=True):
            group.update(own)  # it gave every group the settings of the first
        for state in self._engine.optimizer.optimizer.state.values():
            if isinstance(state.get("step"), Tensor):
                state["step"] = state[
                    "step"
                ].clone()  # one tensor for all would be counted up once for each

    def gather(self) -> State | None:
        import deepspeed

        state: State = {}
        for name, child in trained_children(self.objective).items():
            trained = [parameter for parameter in child.parameters() if parameter.requires_grad]
            # A collective call under ZeRO-3: rank 0 alone would wait forever
            with deepspeed.zero.GatheredParameters(trained, enabled=self.zero == 3):
                if self.world.rank == 0:
                    state[name] = {
                        key: value.detach().cpu().clone()
                        for key, value in trained_state(child).items()
                    }
        return None if self.world.rank else state

    def close(self) -> None:
        # Without it, tearing down the process group right after ZeRO training can abort the
        # process.
        self._engine.destroy()


def convert_to_universal(state: Path, out: Path) -> None:
    """Cut a ZeRO checkpoint's flat shards into one file a parameter and state, which any number of
    ranks can load.

    Raises:
        CheckpointError: DeepSpeed cannot convert it.
    """
    from deepspeed.checkpoint import ds_to_universal

    settings = Namespace(
        input_folder=str(state),
        output_folder=str(out),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    try:
        # It prints each file it writes
        with contextlib.redirect_stdout(io.StringIO()):
            ds_to_universal.main(settings)
    except (
        AssertionError,
        KeyError,
        ValueError,
        RuntimeError,
        NotImplementedError,
        OSError,
    ) as error:
        raise CheckpointError(
            f"the checkpoint cannot be converted for another number of ranks: {error}",
            code="VT-WEIGHTS-013",
            where=str(state),
            remedy="continue with the number of ranks that wrote it",
        ) from error


def bucket_size(trained: int) -> int:
    """Return the gradients that are exchanged at a time, where so many parameters train."""
    return min(_BUCKET, max(trained, 1024))


def engine_config(context: EngineContext, *, bucket: int) -> dict[str, Any]:
    """Return DeepSpeed's configuration. It holds neither an optimizer nor a scheduler: both are
    ours."""
    spec, on_gpu = context.spec, context.world.device.type == "cuda"
    zero: dict[str, Any] = {
        "stage": spec.engine.zero,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
        "overlap_comm": on_gpu,
    }
    if spec.engine.zero == 3:
        zero |= {
            "stage3_prefetch_bucket_size": min(bucket, 50_000_000),
            # On a GPU what is small is not worth gathering block by block.
            "stage3_param_persistence_threshold": _PERSISTENT if on_gpu else 0,
        }
        if spec.engine.shard == "node" and context.world.nodes > 1:
            zero["zero_hpz_partition_size"] = context.world.node_size
    if spec.engine.offload in ("optimizer", "all") and spec.engine.zero:
        zero["offload_optimizer"] = {"device": "cpu"}
    if spec.engine.offload == "all" and spec.engine.zero == 3:
        zero["offload_param"] = {"device": "cpu"}
    return {
        # Asked for, and used by nothing here: batches are made and weighted by the loop
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": spec.batch.grad_accum,
        "gradient_clipping": spec.optim.max_grad_norm,
        "bf16": {"enabled": context.dtype is torch.bfloat16},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        # DeepSpeed's own Adam for offloaded state would have to be compiled
        "zero_force_ds_cpu_optimizer": False,
        # Never: the loop has its own lines
        "steps_per_print": 2**31 - 1,
    }


def import_deepspeed(device: str) -> Any:
    """Import DeepSpeed without its greeting and without anything that it would compile.

    Raises:
        RecipeError: this environment has no DeepSpeed.
    """
    from vita_train.errors import RecipeError

    if device == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    try:
        import deepspeed
        import deepspeed.ops
    except ImportError as error:
        raise RecipeError(
            "DeepSpeed is not installed",
            code="VT-RECIPE-059",
            where="engine.kind",
            remedy="use torch or fsdp2 (DeepSpeed needs Linux)",
        ) from error
    # The collective in shared memory, built at first use
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("nccl" if device == "cuda" else "gloo")
    return deepspeed
