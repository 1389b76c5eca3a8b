"""Names and places of one stage of one run, and who shows how far it is."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from vita_train.data.index.corpus import open_corpus
from vita_train.recipe.aliases import stage_name
from vita_train.recipe.stage import StageSpec
from vita_train.runs.run import Run
from vita_train.storage.base import Store
from vita_train.training.objectives import objective_class


class Page(Protocol):
    """Shows how far a run is."""

    def __call__(self, *, last: bool = False) -> None:
        """Show what is new; ``last``: the stage is done."""


class StageRun:
    """Names and places of one stage of one run, the same on every rank."""

    def __init__(
        self, run: Run, stage: str, logs: Path | None = None, page: Page | None = None
    ) -> None:
        self.run, self.recipe, self.page = run, run.recipe, page
        recipe = run.recipe
        self.stage = stage_name(stage, recipe.stages)
        self.spec: StageSpec = recipe.stages[self.stage]
        self.objective = objective_class(self.spec.objective)
        self.store: Store = run.store
        self.prefix = run.key(self.stage)
        self.directory = run.dir / self.stage
        self.logs = logs or run.logs_dir(self.stage)
        self.corpus = open_corpus(run).for_stage(self.spec)
        self.modules = self.objective.modules_used(self.spec, self.corpus)

    @property
    def ctc_vocab_size(self) -> int:
        """Outputs of the CTC head; 0 where no stage uses it."""
        return len(self.corpus.ctc_vocab) if "ctc_head" in self.modules else 0

    def remote(self) -> tuple[Store, str] | None:
        """Return where the run log is published, when the run's store is not on this machine."""
        return None if self.run.is_local else (self.store, self.prefix)
