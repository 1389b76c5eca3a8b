"""The checks of preparation without writing anything."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from vita_train.console import say
from vita_train.data.prepare.ledger import Counting, PrepareLedger
from vita_train.data.prepare.parallel import ParallelEncoder
from vita_train.data.prepare.run import Say, check_datasets, with_registry
from vita_train.data.prepare.vocabulary import make_tokenizer
from vita_train.data.sources.reading import Reject
from vita_train.data.sources.registry import load_registry
from vita_train.data.sources.source import open_splits
from vita_train.recipe.schema import Recipe


@dataclass
class CheckReport:
    """What a check found."""

    ledger: PrepareLedger
    rejects: list[tuple[str, str, Reject]] = field(default_factory=list)
    """Dataset, split and reject of every row that cannot be used."""
    faults: list[str] = field(default_factory=list)
    """Why preparation would refuse; empty if it would go on."""

    @property
    def ok(self) -> bool:
        """Whether preparation would accept the data."""
        return not self.faults


def check(
    registry_path: Path, recipe: Recipe, *, workers: int = 1, progress: Say = say
) -> CheckReport:
    """Read every record, decode its media and measure its length, as :func:`prepare` does.

    Raises:
        DataError: registry or record file cannot be read.
        RecipeError: the tokenizer does not fit the recipe.
    """
    registry_path = registry_path.resolve()
    registry = load_registry(registry_path)
    check_datasets(recipe, registry, registry_path)
    recipe = with_registry(recipe, registry)
    report = CheckReport(PrepareLedger())
    audio = recipe.data.audio.model_copy(update={"store_features": False})
    unstored = recipe.model_copy(update={"data": recipe.data.model_copy(update={"audio": audio})})
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = Path(scratch) / "tokenizer"
        make_tokenizer(recipe, registry, registry_path, tokenizer)
        with ParallelEncoder(unstored, tokenizer, workers) as encoder:
            for source in open_splits(registry_path, registry):
                dataset, split = source.dataset, source.split
                counting = Counting(dataset, split)
                for result in encoder.split(source):
                    counting.add(result)
                    if isinstance(result, Reject):
                        report.rejects.append((dataset, split, result))
                counted = counting.close()
                report.ledger.splits.append(counted)
                fault = counting.fault(recipe.data.max_reject_share)
                report.faults += [fault] if fault else []
                progress(
                    f"check: {dataset}/{split} {counted.used} rows, {counted.rejected} rejected"
                )
    return report
