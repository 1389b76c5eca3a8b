"""The recipe: one YAML file describes a whole run."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from vita_train.recipe.backends import JOB_BACKENDS, settings_model
from vita_train.recipe.base import (
    MAX_NAME,
    Count,
    Endpoint,
    OptionalCount,
    Seconds,
    Strict,
    Workers,
)
from vita_train.recipe.data import DataSpec
from vita_train.recipe.graph import Node, check_graph, filled_in, in_order
from vita_train.recipe.model import ModelSpec, TokenizerSpec
from vita_train.recipe.modules import MODULES
from vita_train.recipe.stage import StageSpec

#: Settings of every backend, those of plugins included.
if TYPE_CHECKING:
    BackendSettings = Any
else:
    BackendSettings = settings_model(__name__)


class StorageSpec(Strict):
    """Where checkpoints and results go."""

    root: str = "runs"
    """Directory or s3:// URI; a run lives under <root>/<run>."""
    endpoint: Endpoint | None = None
    """S3 endpoint when it is not AWS; credentials come from the environment."""
    keep_last: Count = 2
    """Resumable checkpoints kept per stage."""
    media: Literal["in_place", "shards"] = "in_place"
    """How training reads media. in_place: as files; with a root on S3 each node fetches them all
    first. shards: preparation packs them into tar shards in the run's folder, of which a node reads
    what it needs."""
    media_cache_gb: float = Field(default=100.0, gt=0, le=1e6)
    """Gigabytes of media that a node keeps of shards; what was used least recently goes first."""


class LaunchSpec(Strict):
    """How a stage's processes are started."""

    backend: str = "auto"
    """local, kubernetes, trainjob, pytorchjob, slurm, or one of a plugin. auto: as the cluster's
    platform settings say; on this machine where there are none."""
    nodes: Workers = 1
    """Machines of a training job; this machine alone is one."""
    nproc: Workers = 1
    """Processes per node."""
    threads: Workers = 1
    """CPU threads per process."""
    workers: int = Field(default=0, ge=0, le=100_000)
    """Loader workers per process."""
    unreadable: Literal["fail", "skip"] = "fail"
    """What happens when a sample's file cannot be read, or is not what was prepared, while a stage
    trains: the stage ends, or the sample is passed over, named and counted."""
    max_unreadable: int = Field(default=100, ge=1, le=1_000_000)
    """With ``unreadable: skip``: samples of a stage that may be passed over; one more ends it."""
    dry_batches: bool = True
    """Before the first stage, train a batch of every mix of modalities of every stage on a small
    model."""
    step_timeout: Seconds = 600.0
    """Seconds a step may take before every rank prints its stack and exits retryably."""
    restarts: OptionalCount = 1
    """Times a retryable failure is started again."""
    settings: BackendSettings = BackendSettings()
    """What backends alone know, each under its name; others are passed over."""

    @field_validator("backend")
    @classmethod
    def _known(cls, backend: str) -> str:
        if backend != "auto" and backend not in JOB_BACKENDS:
            known = ("auto", *JOB_BACKENDS)
            near = get_close_matches(backend, known, n=1)
            raise ValueError(
                f"there is no job backend {backend!r}; "
                + (f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}")
            )
        return backend

    @property
    def most_unreadable(self) -> int:
        """Samples of a stage that may be passed over because they cannot be read."""
        return self.max_unreadable if self.unreadable == "skip" else 0

    @property
    def ranks(self) -> int:
        """Processes of a job."""
        return self.nodes * self.nproc


class TrackingSpec(Strict):
    """Where curves go besides the report."""

    tensorboard: bool = True
    wandb_project: str | None = None
    run_name: str | None = None
    """What a tracker calls the run, before the stage's name; none takes the run's own."""


class Recipe(Strict):
    """A whole run, resolved."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=MAX_NAME)
    seed: int = Field(default=0, ge=0, lt=2**32)
    storage: StorageSpec = StorageSpec()
    tokenizer: TokenizerSpec = TokenizerSpec()
    model: ModelSpec = ModelSpec()
    data: DataSpec
    weights: dict[str, str] = {}
    """Module to the weights it starts from: an import (``vita-train model import``), an export, the
    folder of a finished stage, each on disk or on S3, or a safetensors file with the module's own
    tensor names."""
    stages: dict[str, StageSpec]
    """Stages by name, any name that may be a folder's. They run in the order that their ``after``
    asks for, else as they are written."""
    launch: LaunchSpec = LaunchSpec()
    tracking: TrackingSpec = TrackingSpec()

    @field_validator("weights")
    @classmethod
    def _known_modules(cls, weights: dict[str, str]) -> dict[str, str]:
        unknown = [name for name in weights if name not in MODULES]
        if unknown:
            raise ValueError(f"unknown modules {unknown}; modules are {', '.join(MODULES)}")
        # In the order of MODULES: two spellings of the same recipe have the same digest
        return {name: weights[name] for name in MODULES if name in weights}

    @field_validator("stages")
    @classmethod
    def _in_order(cls, stages: dict[str, StageSpec]) -> dict[str, StageSpec]:
        """Say of each stage what it starts after, and bring all into the order they run."""
        after = filled_in({name: spec.after for name, spec in stages.items()})
        check_graph(
            {name: Node(after[name], tuple(spec.trainable)) for name, spec in stages.items()}
        )
        return {
            name: stages[name].model_copy(
                # Written out: what a stage starts after must not change when others are left out
                update={"after": list(after[name]), "title": stages[name].title or name}
            )
            for name in in_order(after)
        }

    @field_validator("data")
    @classmethod
    def _has_a_source(cls, data: DataSpec) -> DataSpec:
        if not data.source and not data.prepared:
            raise ValueError(
                "source is missing: name where the records come from, such as source: {mine: "
                "{kind: "
                "records, registry: registry.json}}"
            )
        if data.source and data.prepared:
            raise ValueError("source and prepared both say where the records come from: take one")
        return data

    @model_validator(mode="after")
    def _one_place_each(self) -> Recipe:
        if twice := [name for name in self.model.sources if name in self.weights]:
            raise ValueError(
                f"model.{twice[0]}.source and weights.{twice[0]} both say where {twice[0]} starts "
                f"from"
            )
        return self
