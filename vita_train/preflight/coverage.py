"""A pass over the prepared index: what is supervised, and what each stage's mixture holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vita_train.console import Found
from vita_train.errors import DataError, UserError
from vita_train.preflight.subprocesses import RefusedError, ask
from vita_train.recipe.objectives import OBJECTIVES
from vita_train.recipe.schema import Recipe
from vita_train.runs.run import Run

if TYPE_CHECKING:
    from vita_train.data.index.corpus import Corpus, Index

#: Share of supervised tokens below which a dataset teaches little for what it costs.
LOW_SUPERVISION = 0.01
#: Share of a stage's records below which a modality is hardly trained.
LOW_MODALITY = 0.02
#: Records of a split whose files are looked for.
_SAMPLES = 50
_TRAIN = "train"


def check_coverage(run: Run) -> Found:
    """Look at the prepared corpus of a run, where it lies on this machine.

    Raises:
        DataError: as of `corpus_coverage`.
    """
    from vita_train.data.index.corpus import Corpus

    if why := not_here(run):
        return Found(why)
    return corpus_coverage(run.recipe, Corpus.open(run.corpus_dir))


def check_dry_batch(run: Run) -> str:
    """Do as `try_batches`, where the prepared corpus lies on this machine."""
    return not_here(run) or try_batches(run)


def try_batches(run: Run) -> str:
    """Train a batch of every mix of modalities of every stage on a small model, on the processor.

    Raises:
        UserError: what the stage's first steps would stumble over.
    """
    try:
        losses = ask("vita_train.training.dry_batch", run.recipe, run.name)
    except RefusedError as error:
        raise UserError(
            f"a batch cannot be trained on: {error}",
            code="VT-USE-228",
            where="prepared data",
            remedy="correct what it says, and prepare again if it is the data; where it holds on "
            "this machine alone, launch.dry_batches=false leaves these batches out",
        ) from None
    mixes = sum(map(len, losses.values()))
    return f"{mixes} mixes of modalities in {len(losses)} stages train, on a small model"


def not_here(run: Run) -> str:
    """Return why the prepared corpus cannot be looked at here; empty if it can."""
    if run.final("prepare") is None:
        return "not prepared yet"
    if not run.corpus_dir.is_dir():
        return "prepared on another machine; looked at where its corpus is"
    return ""


def corpus_coverage(recipe: Recipe, corpus: Corpus) -> Found:
    """Say how much of each dataset's train split is supervised.

    Raises:
        DataError: a dataset that a stage trains on supervises nothing, or files of its records are
            gone.
    """
    names = sorted({name for spec in recipe.stages.values() for name in spec.datasets})
    shares = {}
    for name in names:
        index = corpus.index(name, _TRAIN)
        supervised, tokens = index.total("supervised"), int(index.tokens.sum())
        if not supervised:
            raise DataError(
                f"none of the {tokens} tokens is supervised: there is nothing to learn from",
                code="VT-DATA-073",
                where=f"{name}/{_TRAIN}",
                remedy="see that its records have gpt turns, or take it out of the stages' data",
            )
        if recipe.storage.media == "in_place":
            _check_files(index)
        shares[name] = supervised / tokens
    low = [
        f"{name}: only {share:.2%} of the tokens are supervised; shorten its prompts, or give more "
        "turns with answers"
        for name, share in shares.items()
        if share < LOW_SUPERVISION
    ]
    return Found(
        "supervised are " + ", ".join(f"{share:.0%} of {name}" for name, share in shares.items()),
        (*low, *modality_warnings(recipe, corpus)),
    )


def _check_files(index: Index) -> None:
    """Look for the files of records spread evenly over a split.

    Raises:
        DataError: the first that is not there.
    """
    for row in range(0, len(index), max(1, len(index) // _SAMPLES)):
        sample = index.sample(row)
        audios: list[Path] = [] if sample.features else sample.audios
        for path in (*sample.images, *sample.videos, *audios):
            if not path.exists():
                raise DataError(
                    f"{path} is gone since the data was prepared",
                    code="VT-DATA-074",
                    where=sample.name,
                    remedy="put the media back, or prepare the data again (--only prepare --force)",
                )


def modality_warnings(recipe: Recipe, corpus: Corpus) -> list[str]:
    """Return a line for each modality that makes up less than `LOW_MODALITY` of the records that a
    stage draws."""
    lines = []
    for stage, spec in recipe.stages.items():
        if OBJECTIVES[spec.objective].reads != "tokens":
            continue
        shares = modality_shares(corpus, spec.data)
        lines += [
            f"stage {stage}: {modality} is in {share:.1%} of the records drawn, below "
            f"{LOW_MODALITY:.0%}; raise the weight of datasets that have it, or leave them out"
            for modality, share in shares.items()
            if 0 < share < LOW_MODALITY
        ]
    return lines


def modality_shares(corpus: Corpus, weights: Mapping[str, float]) -> dict[str, float]:
    """Return the share of drawn records that have images or videos, audio, and neither.

    Args:
        corpus: prepared.
        weights: of datasets, as a stage gives them.
    """
    drawn: dict[str, float] = {"image or video": 0.0, "audio": 0.0, "text alone": 0.0}
    total = 0.0
    for name, weight in weights.items():
        index = corpus.index(name, _TRAIN)
        times = weight * corpus.ratios.get(name, 1.0)
        shown, heard = index.tiles > 0, index.frames > 0
        total += times * len(index)
        drawn["image or video"] += times * int(shown.sum())
        drawn["audio"] += times * int(heard.sum())
        drawn["text alone"] += times * int((~shown & ~heard).sum())
    return {modality: count / total if total else 0.0 for modality, count in drawn.items()}
