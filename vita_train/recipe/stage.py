"""What one stage does: objective, data mix, trainable map, optimizer, engine, gate."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from vita_train.recipe.base import (
    Count,
    Epsilon,
    MeasureBound,
    MixWeight,
    OptionalCount,
    Rate,
    Share,
    Size,
    Strict,
)
from vita_train.recipe.flat import FlatSpec
from vita_train.recipe.lora import LoraSpec, QuantizeSpec
from vita_train.recipe.mixtures import expand
from vita_train.recipe.modules import MODULES
from vita_train.recipe.objectives import OBJECTIVES, check_options

#: Numbers of an objective's options; each objective declares its own bounds.
_OPTION = Field(ge=-1e9, le=1e9)
#: Decay of a moving average of gradients; 1 would never let them in.
_Beta = Annotated[float, Field(ge=0, lt=1)]
#: Steps, or a share of them when below 1.
_StepsOrShare = Annotated[float, Field(ge=0, le=1e9)]


#: Weights by dataset; a text of names, shares and mixtures is read as one.
_Data = Annotated[
    dict[str, MixWeight],
    BeforeValidator(expand, json_schema_input_type=dict[str, MixWeight] | str),
]


class BatchSpec(Strict):
    """Size of a global batch. Objectives that pack rows (next_token) count rows, the others
    samples."""

    global_batch_size: Size = 16
    """Packed rows (next_token) or samples (other objectives) in a global batch, over all ranks."""
    grad_accum: Size = 1
    """Micro-batches a rank splits its share into. Changes memory, never the mathematics."""
    seq_len: int = Field(default=6200, ge=16, le=2**24)
    """Tokens of a packed row, after expansion of media."""
    max_tiles: Size = 24
    """Tiles a packed row may hold."""
    max_audio_frames: Count = 20000
    """Filterbank frames a packed row may hold."""
    packing: bool = True
    """Fill each row with as many samples as fit. False: a row is one sample, in the shuffled order
    of the data, so that the samples of each batch can be held against those of another trainer."""
    group_by_modality_length: bool = False
    """Without packing: each batch holds samples with images or videos, or samples without, the
    longest first, as the public trainer's flag of this name has it."""

    def micro_rows(self, ranks: int) -> int:
        """Return the rows, or samples, of a micro-batch on each of so many ranks, at most."""
        return -(-self.global_batch_size // (ranks * self.grad_accum))

    @model_validator(mode="after")
    def _unpacked(self) -> BatchSpec:
        if self.group_by_modality_length and self.packing:
            raise ValueError(
                "group_by_modality_length is an order of single samples: it needs packing false"
            )
        return self


class OptimSpec(Strict):
    """Optimizer with warm-up and decay. Rates stand in the stage's trainable map."""

    kind: Literal["adamw", "muon", "adafactor", "adamw_8bit"] = "adamw"
    """adafactor: the second moment alone, by rows and columns; betas and eps are not read.
    adamw_8bit: moments in 8 bits, by bitsandbytes. muon: orthogonalised momentum for the weight
    matrices of hidden layers, scaled to AdamW's update size so that the same rates serve; AdamW for
    embeddings, convolutions, heads, biases and norms. All but adamw need engine kind torch."""
    betas: tuple[_Beta, _Beta] = (0.9, 0.999)
    eps: Epsilon = 1e-8
    weight_decay: float = Field(default=0.0, ge=0, le=10)
    max_grad_norm: float = Field(default=1.0, ge=0, le=1e9)
    """Global gradient norm limit; 0 switches clipping off."""
    schedule: Literal["cosine", "linear", "constant", "exponential"] = "cosine"
    warmup: _StepsOrShare = 0.03
    """Steps, or a share of all steps when below 1."""
    decay: float | None = Field(default=None, gt=0, le=1e9)
    """Steps the decay takes at the end of the stage, or a share of all steps when below 1; before
    it the rate stays at its peak. None: from the end of the warm-up on, or over the last fifth
    where the stage trains ``until`` something."""
    min_lr_ratio: Share = 0.0
    """Rate at the end as a share of the peak."""

    @model_validator(mode="after")
    def _has_a_ratio(self) -> OptimSpec:
        if self.schedule == "exponential" and not self.min_lr_ratio:
            raise ValueError(
                "schedule exponential needs min_lr_ratio above 0, the share of the peak rate "
                "at the last step, such as 0.1"
            )
        return self


class EngineSpec(Strict):
    """What runs forward, backward and step."""

    kind: Literal["torch", "fsdp2", "deepspeed"] = "torch"
    """torch: single process or DDP."""
    zero: Literal[0, 1, 2, 3] = 2
    """deepspeed: ZeRO stage."""
    shard: Literal["world", "node"] = "world"
    """fsdp2, and deepspeed with zero 3: among whom weights are cut up. node: among the ranks of
    each node, so that they are gathered within it; fsdp2 then sums gradients over the nodes once a
    step and keeps the optimizer's state on each, deepspeed keeps a second copy of the weights."""
    offload: Literal["none", "optimizer", "all"] = "none"
    checkpoint_activations: bool | Literal["auto", "selective"] = False
    """Compute activations again in backward instead of keeping them: true all but the inputs of
    blocks, selective all but these and what attention gives. auto: selective in as many blocks of
    the language model as it takes for the rest to fit, and in towers that train; on a processor
    nothing is computed again."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Compute type; none takes the model's. float16 trains with a dynamic loss scale and needs
    engine kind torch; it is for GPUs without bfloat16."""

    @model_validator(mode="after")
    def _half(self) -> EngineSpec:
        if self.dtype == "float16" and self.kind != "torch":
            raise ValueError(f"dtype float16 needs engine kind torch, not {self.kind}")
        return self

    @model_validator(mode="after")
    def _has_shards(self) -> EngineSpec:
        sharded = self.kind == "fsdp2" or (self.kind == "deepspeed" and self.zero == 3)
        if self.shard == "node" and not sharded:
            raise ValueError("shard node needs kind fsdp2, or deepspeed with zero 3")
        return self

    @model_serializer(mode="wrap")
    def _without_default_shard(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out shard where it is not used: digests of such stages know nothing of it."""
        values: dict[str, Any] = handler(self)
        return {
            name: value for name, value in values.items() if (name, value) != ("shard", "world")
        }


class EvalSpec(Strict):
    """Held-out measures during and after training."""

    interval: OptionalCount = 0
    """Steps between measurements of the dev loss; 0 only at the end."""
    batches: OptionalCount = 4
    """Batches of a dev measurement; 0 takes none."""
    max_samples: Count = 400
    """Most test samples a final measure uses per slice."""


class Gate(Strict):
    """Bounds a held-out measure must meet for the run to continue."""

    min: MeasureBound | None = None
    max: MeasureBound | None = None

    @model_validator(mode="after")
    def _one(self) -> Gate:
        if self.min is None and self.max is None:
            raise ValueError("a gate needs min or max")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(
                f"min {self.min:g} is above max {self.max:g}: nothing could lie between them"
            )
        return self


class CurriculumPhase(Strict):
    """The first steps of a stage, on data of their own."""

    steps: Count | None = None
    max_steps: Count | None = None
    """With ``until``, in place of ``steps``."""
    data: _Data
    """Dataset name to mixing weight, as a stage's."""
    until: dict[str, Gate] = {}
    """Measures on the dev split that end the phase, as a stage's."""

    @model_validator(mode="after")
    def _bounded(self) -> CurriculumPhase:
        if not self.data:
            raise ValueError("data is empty: the phase has nothing to train on")
        _check_length(self.until, {"steps": self.steps}, self.max_steps)
        return self

    @property
    def most_steps(self) -> int:
        """The steps it takes, or takes at most."""
        return self.steps or self.max_steps or 0


class StageSpec(Strict):
    """What one stage trains, on what, and after which others."""

    objective: str
    """What it minimises: next_token, caption_words, ctc, codec, speech_tokens, or an objective of a
    plugin."""
    title: str = ""
    """What it is called in tables and on pages; its name when empty."""
    group: str = Field(default="", pattern=r"^[A-Za-z0-9][A-Za-z0-9 _-]*$|^$", max_length=40)
    """Word under which pages put it together with others: base, see, hear, speak, or one of your
    own."""
    after: list[str] | None = None
    """Stages that must be done before it; it goes on with their weights. Empty: the prepared data
    are enough. When not given: the stage written before it."""
    data: _Data
    """Dataset name to mixing weight: 1.0 takes each record once per epoch, 0.2 a fifth of them, 2.0
    each twice. Or a text: names joined by +, each with a share behind @ if it is not 1, and shipped
    mixtures with a stage of theirs: ``vila-1.5/pretrain+mine@0.5``."""
    curriculum: list[CurriculumPhase] = []
    """Phases that come before ``data``, one after another. Their steps are among the stage's;
    next_token only."""
    trainable: dict[str, Rate]
    """Module to peak learning rate. Everything else is frozen and in eval mode."""
    steps: Count | None = None
    """Optimizer steps. Give steps or epochs, or max_steps together with ``until``."""
    epochs: float | None = Field(default=None, gt=0, le=1e6)
    until: dict[str, Gate] = {}
    """Train until these measures on the dev split are all within their bounds:
    ``<dataset>.dev.<measure>``, such as ``textqa.dev.accuracy``, or ``dev.<metric>`` of the
    objective over all datasets, such as ``dev.loss``. The rate stays at its peak until then and
    decays over ``optim.decay`` steps afterwards."""
    max_steps: Count | None = None
    """Most optimizer steps where the stage trains ``until`` something; the decay begins in time for
    them."""
    check_interval: Count = 50
    """Steps between two looks at the measures of ``until``."""
    extend: list[Count] = []
    """Further steps after the end, each extension with a warm-up and decay of its own: training
    goes on from the last checkpoint. What ``vita-train run --extend`` sets."""
    accept: bool = False
    """Go on although a gate is not met; noted in the lineage and the report. What ``vita-train run
    --accept`` sets."""
    batch: BatchSpec = BatchSpec()
    optim: OptimSpec = OptimSpec()
    engine: EngineSpec = EngineSpec()
    lora: LoraSpec | None = None
    """Train adapters in place of the modules it names."""
    merge_visual_tokens: bool = True
    """Where ``model.vision.merge`` is given: merge tokens in this stage. Stages that align can see
    whole tiles and later ones fewer tokens."""
    quantize: QuantizeSpec | None = None
    """Hold the frozen matrices of the language model in 4 or 8 bit."""
    eval: EvalSpec = EvalSpec()
    gates: dict[str, Gate] = {}
    """Measure name (e.g. ``vqa_seen.accuracy``) to bounds, checked on the final weights."""
    checkpoint_interval: Count = 500
    """Steps between resumable checkpoints. Beside the newest ones the checkpoint with the lowest
    dev loss is kept."""
    flat: FlatSpec = FlatSpec()
    """When a training loss that has stopped to fall is warned about, or ends the stage."""
    options: dict[str, Annotated[float, _OPTION] | Annotated[int, _OPTION] | bool | str] = {}
    """Settings of the objective (augmentation, loss weights); each objective refuses names it does
    not know."""

    @field_validator("objective")
    @classmethod
    def _known(cls, objective: str) -> str:
        if objective not in OBJECTIVES:
            near = get_close_matches(objective, tuple(OBJECTIVES), n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(OBJECTIVES)}"
            raise ValueError(f"there is no objective {objective!r}; {hint}")
        return objective

    @field_validator("options")
    @classmethod
    def _declared(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        # A setting above that was refused is not in info.data
        declared = OBJECTIVES[info.data["objective"]].options if "objective" in info.data else None
        if declared is not None:
            check_options(options, declared)
        return options

    @field_validator("lora")
    @classmethod
    def _adapters_fit(cls, lora: LoraSpec | None, info: ValidationInfo) -> LoraSpec | None:
        """Check against the settings above it; those that are wrong themselves are missing."""
        if lora is None:
            return None
        frozen = [
            name for name in lora.modules if name not in info.data.get("trainable", lora.modules)
        ]
        if frozen:
            raise ValueError(
                f"modules names {', '.join(frozen)}, which trainable does not: give its adapters a "
                f"rate "
                "there, or take it out of lora.modules"
            )
        if "objective" in info.data and OBJECTIVES[info.data["objective"]].reads != "tokens":
            raise ValueError(
                f"adapters need an objective that reads tokens, not {info.data['objective']}"
            )
        if "optim" in info.data and info.data["optim"].kind == "muon":
            raise ValueError(
                "optim.kind muon is meant for whole matrices, not for adapters: use adamw"
            )
        return lora

    @field_validator("quantize")
    @classmethod
    def _quantization_fits(
        cls, quantize: QuantizeSpec | None, info: ValidationInfo
    ) -> QuantizeSpec | None:
        if quantize is None or not {"objective", "trainable", "engine", "lora"} <= set(info.data):
            return quantize
        engine, lora = info.data["engine"], info.data["lora"]
        if OBJECTIVES[info.data["objective"]].reads != "tokens":
            raise ValueError(
                f"needs an objective that reads tokens, not {info.data['objective']}: no other "
                f"reads the "
                "language model's matrices"
            )
        if engine.kind == "fsdp2" or (engine.kind == "deepspeed" and engine.zero == 3):
            sharding = "fsdp2" if engine.kind == "fsdp2" else "ZeRO-3"
            raise ValueError(
                f"{sharding} cuts every matrix over the ranks, which {quantize.bits} bit weights "
                f"with "
                "their scales do not survive: set engine.kind to torch, or to deepspeed with "
                "engine.zero "
                "2, or take quantize out"
            )
        if "llm" in info.data["trainable"] and (lora is None or "llm" not in lora.modules):
            raise ValueError(
                "quantised weights cannot be trained: give the language model adapters (lora), or "
                "take "
                "llm out of trainable"
            )
        if lora is not None and lora.bias == "all":
            raise ValueError(
                "the biases of quantised layers cannot be trained: set lora.bias to none"
            )
        return quantize

    @model_serializer(mode="wrap")
    def _without_unset(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out lora, quantize and flat where they say nothing: digests of such stages know
        nothing of them."""
        values: dict[str, Any] = handler(self)
        return {
            name: value
            for name, value in values.items()
            if (value is not None or name not in ("lora", "quantize"))
            and (name != "flat" or self.flat != FlatSpec())
        }

    @model_validator(mode="after")
    def _consistent(self) -> StageSpec:
        _check_length(self.until, {"steps": self.steps, "epochs": self.epochs}, self.max_steps)
        unknown = [name for name in self.trainable if name not in MODULES]
        if unknown:
            raise ValueError(
                f"trainable names unknown modules {unknown}; modules are {', '.join(MODULES)}"
            )
        if not self.trainable:
            raise ValueError("trainable is empty: the stage would train nothing")
        if not self.data:
            raise ValueError("data is empty: the stage has nothing to train on")
        if self.curriculum and not OBJECTIVES[self.objective].packs:
            raise ValueError(
                f"a curriculum needs an objective that packs rows, not {self.objective}"
            )
        if self.curriculum and not self.curriculum_steps < (self.most_steps or 0):
            raise ValueError(
                f"the curriculum takes {self.curriculum_steps} steps: give the stage steps, and "
                f"more than that"
            )
        if self.optim.kind != "adamw" and self.engine.kind != "torch":
            raise ValueError(
                f"optim.kind {self.optim.kind} needs whole matrices: engine.kind must be torch, "
                f"not {self.engine.kind}"
            )
        return self

    @property
    def most_steps(self) -> int | None:
        """Steps before any extension, or the most of them; None where only the data say
        (``epochs``)."""
        return self.steps or self.max_steps

    @property
    def adapted(self) -> tuple[str, ...]:
        """Modules that train through adapters; none without lora."""
        return self.lora.modules if self.lora is not None else ()

    @property
    def curriculum_steps(self) -> int:
        """Steps that the curriculum takes at most."""
        return sum(phase.most_steps for phase in self.curriculum)

    @property
    def datasets(self) -> tuple[str, ...]:
        """Every dataset the stage trains on, curriculum included; sorted."""
        return tuple(
            sorted({*self.data, *(name for phase in self.curriculum for name in phase.data)})
        )


def _check_length(
    until: dict[str, Gate], lengths: dict[str, float | None], max_steps: int | None
) -> None:
    """Refuse a stage or phase whose length is not said, or said twice."""
    given = [name for name, value in lengths.items() if value is not None]
    if until and given:
        raise ValueError(
            f"until and {given[0]} both say how long to train: give max_steps in place of "
            f"{given[0]}"
        )
    if until and max_steps is None:
        raise ValueError("until needs max_steps, the most steps to take")
    if not until and max_steps is not None:
        raise ValueError(
            "max_steps belongs to until: name the measures to train until, or give steps"
        )
    if not until and len(given) != 1:
        raise ValueError(
            f"give exactly one of {' and '.join(lengths)}" if len(lengths) > 1 else "give steps"
        )
