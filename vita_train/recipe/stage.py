"""What one stage does: objective, data mix, trainable map, optimizer, engine, gate."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vita_train.recipe.base import Strict
from vita_train.recipe.ladder import MODULES

ObjectiveName = Literal["next_token", "caption_words", "ctc", "codec", "speech_tokens"]


class BatchSpec(Strict):
    """Size of a global batch. next_token packs rows; the other objectives count samples."""

    rows: int = Field(default=16, ge=1)
    """Packed rows (next_token) or samples (other objectives) in a global batch, over all ranks."""
    accumulate: int = Field(default=1, ge=1)
    """Micro-batches a rank splits its share into. Changes memory, never the mathematics."""
    row_tokens: int = Field(default=6200, ge=16)
    """Language positions of a packed row, after expansion of media."""
    row_tiles: int = Field(default=24, ge=1)
    """Tiles a packed row may hold."""
    row_frames: int = Field(default=20000, ge=1)
    """Filterbank frames a packed row may hold."""


class OptimSpec(Strict):
    """Optimizer with warm-up and decay. Rates stand in the stage's trainable map."""

    kind: Literal["adamw", "muon"] = "adamw"
    """muon: orthogonalised momentum for the weight matrices of hidden layers, scaled to AdamW's update size so that
    the same rates serve; AdamW for embeddings, convolutions, heads, biases and norms. Needs engine kind torch."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    """Global gradient norm limit; 0 switches clipping off."""
    schedule: Literal["cosine", "linear", "constant", "exponential"] = "cosine"
    warmup: float = Field(default=0.03, ge=0)
    """Steps, or a share of all steps when below 1."""
    final: float = Field(default=0.0, ge=0, le=1)
    """Rate at the end as a share of the peak."""


class EngineSpec(Strict):
    """What runs forward, backward and step."""

    kind: Literal["torch", "fsdp2", "deepspeed"] = "torch"
    """torch: single process or DDP."""
    zero: Literal[0, 1, 2, 3] = 2
    """deepspeed: ZeRO stage."""
    offload: Literal["none", "optimizer", "all"] = "none"
    checkpoint_activations: bool = False
    dtype: Literal["float32", "bfloat16"] | None = None
    """Compute type; none takes the model's."""


class EvalSpec(Strict):
    """Held-out measures during and after training."""

    every: int = 0
    """Steps between measurements of the dev loss; 0 only at the end."""
    batches: int = 4
    """Batches of a dev measurement."""
    limit: int = 400
    """Most test samples a final measure uses per slice."""


class Gate(Strict):
    """Bounds a held-out measure must meet for the run to go on."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _one(self) -> Gate:
        if self.min is None and self.max is None:
            raise ValueError("a gate needs min or max")
        return self


class Lesson(Strict):
    """The first steps of a stage, on data of their own."""

    steps: int = Field(ge=1)
    data: dict[str, float]
    """Dataset name to mixing weight, as a stage's."""


class StageSpec(Strict):
    """One step of the ladder."""

    objective: ObjectiveName
    data: dict[str, float]
    """Dataset name to mixing weight: 1.0 takes each record once per epoch, 0.2 a fifth of them, 2.0 each twice."""
    curriculum: list[Lesson] = []
    """Lessons that come before ``data``, one after another. Their steps are among the stage's; next_token only."""
    trainable: dict[str, float]
    """Module to peak learning rate. Everything else is frozen and in eval mode."""
    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps. Give steps or epochs."""
    epochs: float | None = Field(default=None, gt=0)
    batch: BatchSpec = BatchSpec()
    optim: OptimSpec = OptimSpec()
    engine: EngineSpec = EngineSpec()
    eval: EvalSpec = EvalSpec()
    gates: dict[str, Gate] = {}
    """Measure name (e.g. ``vqa_seen.accuracy``) to bounds, checked on the final weights."""
    save_every: int = 500
    """Steps between resumable checkpoints."""
    options: dict[str, float | int | bool | str] = {}
    """Settings of the objective (augmentation, loss weights); each objective refuses names it does not know."""

    @model_validator(mode="after")
    def _consistent(self) -> StageSpec:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of steps and epochs")
        unknown = [name for name in self.trainable if name not in MODULES]
        if unknown:
            raise ValueError(f"trainable names unknown modules {unknown}; modules are {', '.join(MODULES)}")
        if not self.trainable:
            raise ValueError("trainable is empty: the stage would train nothing")
        if not self.data:
            raise ValueError("data is empty: the stage has nothing to train on")
        if self.curriculum and self.objective != "next_token":
            raise ValueError(f"a curriculum needs objective next_token, not {self.objective}")
        if self.curriculum and not self.taught < (self.steps or 0):
            raise ValueError(f"the curriculum takes {self.taught} steps: give the stage steps, and more than that")
        if self.optim.kind == "muon" and self.engine.kind != "torch":
            raise ValueError(f"optim.kind muon needs whole matrices: engine.kind must be torch, not {self.engine.kind}")
        return self

    @property
    def taught(self) -> int:
        """Steps that the curriculum takes."""
        return sum(lesson.steps for lesson in self.curriculum)

    @property
    def datasets(self) -> tuple[str, ...]:
        """Every dataset the stage trains on, lessons included; sorted."""
        return tuple(sorted({*self.data, *(name for lesson in self.curriculum for name in lesson.data)}))
