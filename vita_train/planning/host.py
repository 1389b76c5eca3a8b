"""What a stage takes of a node's own memory, and of the store."""

from __future__ import annotations

from dataclasses import dataclass

from vita_train.planning.plan import StagePlan
from vita_train.recipe.schema import Recipe
from vita_train.recipe.selection import trainers
from vita_train.recipe.visual import most_tiles

#: Bytes of a process that has imported torch and transformers and opened a device, and of a loader
#: worker, which shares what it does not change.
_PROCESS, _WORKER = 2_000_000_000, 300_000_000
#: Micro-batches that each worker has ready, and that are on their way to the device.
_READY = 2


@dataclass(frozen=True)
class HostNeed:
    """Bytes of one node, and of the store."""

    memory: int
    """Of the node, while weights are loaded or while it trains, whichever is more."""
    shared: int
    """Of ``/dev/shm``, where workers put micro-batches."""
    storage: int
    """Checkpoints that are kept and final weights, of the whole stage."""


def host_need(recipe: Recipe, plan: StagePlan) -> HostNeed:
    """Return what a stage takes of each node and of the store."""
    launch, spec = recipe.launch, recipe.stages[plan.stage]
    total, trained = sum(plan.modules.values()), sum(plan.trained.values())
    batch = batch_bytes(recipe, plan)
    shared = launch.nproc * launch.workers * _READY * batch
    running = launch.nproc * (_PROCESS + launch.workers * _WORKER + _READY * batch) + shared
    if spec.engine.kind == "deepspeed" and spec.engine.offload != "none":
        running += (12 * trained) // launch.nodes
        if spec.engine.offload == "all":
            running += plan.compute_bytes * total // launch.nodes
    own, common = _loading(recipe, plan)
    loading = launch.nproc * (_PROCESS + own) + common
    kept = recipe.storage.keep_last + 1
    state = 12 * trained
    final = trained * (4 if recipe.model.dtype == "float32" else 2)
    return HostNeed(max(running, loading), shared, kept * state + final)


def _loading(recipe: Recipe, plan: StagePlan) -> tuple[int, int]:
    """Return the bytes of weights that each process has to itself while they are loaded, and those
    that all of a node share: what an earlier stage stored in the type that it is held in stays in
    its files (`training.weights.load_inputs`)."""
    spec = recipe.stages[plan.stage]
    stored = 4 if recipe.model.dtype == "float32" else 2
    earlier, own, common = trainers(recipe, plan.stage), 0, 0
    for name, count in plan.modules.items():
        wide = name in plan.trained and spec.engine.kind != "deepspeed"
        width = 4 if wide or name in spec.adapted else plan.compute_bytes
        if name in earlier and width == stored:
            common += width * count
        else:
            own += width * count
    return own, common


def batch_bytes(recipe: Recipe, plan: StagePlan) -> int:
    """Return the bytes of a full micro-batch on the host."""
    spec, model = recipe.stages[plan.stage], recipe.model
    side, frame = model.vision.tile_size, 4 * model.audio_encoder.num_mel_bins
    if plan.seq_len:
        shown, heard = "vision" in plan.modules, "audio_encoder" in plan.modules
        tiles = spec.batch.max_tiles if shown else 0
        frames = spec.batch.max_audio_frames if heard else 0
        return plan.rows * (plan.seq_len * 40 + tiles * 3 * side * side + frames * frame)
    seconds = recipe.data.audio.max_seconds
    if "vision" in plan.modules:
        return plan.rows * most_tiles(recipe.data.image) * 3 * side * side
    if "codec" in plan.modules:
        return plan.rows * int(seconds * model.codec.sample_rate) * 4
    return plan.rows * int(seconds * 100) * frame
