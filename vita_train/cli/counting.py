"""``vita-train data count``: what it reads, prints and writes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from vita_train.data.check.examine import length_examiner
from vita_train.data.check.targets import is_registry, open_target
from vita_train.data.count.gather import Histogram, SplitCounts, count_corpus, count_source
from vita_train.data.count.page import write_page
from vita_train.data.count.shares import StageShares, stage_shares
from vita_train.data.index.corpus import Corpus
from vita_train.data.sources.registry import load_registry
from vita_train.printable import printable
from vita_train.recipe.load import load_recipe
from vita_train.recipe.schema import Recipe


def run_count(
    targets: Sequence[Path],
    *,
    recipe: str | None,
    settings: Sequence[str],
    roots: Sequence[str],
    adapter: str | None,
    as_json: bool,
    html: Path | None,
    workers: int,
) -> None:
    """Count each target, and print or write what was counted.

    Raises:
        UserError: the recipe names no tokenizer, and records are to be measured by it.
        DataError: a target cannot be read, or a media root is missing or empty.
    """
    resolved = load_recipe(recipe, list(settings)) if recipe else None
    splits = [
        counts
        for target in targets
        for counts in _count(target, resolved, roots=roots, adapter=adapter, workers=workers)
    ]
    shares = stage_shares(resolved, splits) if resolved else []
    if as_json:
        typer.echo(json.dumps(counts_as_json(splits, shares), indent=1))
    else:
        _print(splits, shares)
    if html:
        write_page(html, splits, shares, f"Counts of {', '.join(path.name for path in targets)}")


def counts_as_json(splits: Sequence[SplitCounts], shares: Sequence[StageShares]) -> dict[str, Any]:
    """Return counts as plain values."""
    return {
        "splits": [
            {name: _plain(value) for name, value in vars(split).items()} for split in splits
        ],
        "stages": [asdict(stage) for stage in shares],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Counter):
        return dict(sorted(value.items()))
    if isinstance(value, Histogram):
        return {str(edge): count for edge, count in zip(value.edges, value.counts, strict=True)}
    return value


def _count(
    target: Path,
    recipe: Recipe | None,
    *,
    roots: Sequence[str],
    adapter: str | None,
    workers: int,
) -> list[SplitCounts]:
    if target.is_dir():
        return count_corpus(Corpus.open(target))
    ratios: dict[str, float] = {}
    if is_registry(target):
        ratios = {name: each.ratio for name, each in load_registry(target).datasets.items()}
        sources = open_target(target)
    else:
        sources = open_target(target, roots=roots or ["."], adapter=adapter)
    with ExitStack() as stack:
        examiner = None
        if recipe is not None:
            examiner = stack.enter_context(length_examiner(recipe, workers=workers))
        return [
            count_source(source, examiner, ratio=ratios.get(source.dataset, 1.0))
            for source in sources
        ]


def _print(splits: Sequence[SplitCounts], shares: Sequence[StageShares]) -> None:
    numbers = ("records", "rejected", "turns", "images", "videos", "audios", "tokens", "tiles")
    widths = (9, 9, 9, 8, 8, 8, 12, 9)
    heads = zip(numbers, widths, strict=True)
    typer.echo(f"{'split':<28}{'as':<9}{''.join(f'{n:>{w}}' for n, w in heads)}{'hours':>9}")
    for split in splits:
        cells = [
            "-" if name in ("tokens", "tiles") and not split.measured else str(getattr(split, name))
            for name in numbers
        ]
        hours = f"{split.seconds / 3600:.2f}" if split.measured else "-"
        row = "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        typer.echo(f"{printable(split.name):<28}{split.state:<9}{row}{hours:>9}")
    for split in splits:
        for title in ("modalities", "scripts", "sets", "reasons"):
            if counts := getattr(split, title).most_common(12):
                listed = ", ".join(f"{printable(name)} {count}" for name, count in counts)
                typer.echo(f"{printable(split.name)} {split.state} {title}: {listed}")
        for title in ("by_turns", "by_tokens", "by_seconds"):
            histogram: Histogram = getattr(split, title)
            if sum(histogram.counts):
                listed = ", ".join(f"{name}: {count}" for name, count in histogram.bars)
                title = title.replace("_", " ")
                typer.echo(f"{printable(split.name)} {split.state} {title}: {listed}")
    for stage in shares:
        for each in stage.datasets:
            typer.echo(
                f"stage {stage.stage}: {each.dataset} weight {each.weight:g}, "
                f"{each.share_of_records:.1%} of records, {each.share_of_tokens:.1%} of tokens, "
                f"{each.share_of_supervised:.1%} of supervised tokens"
            )
        if stage.missing:
            typer.echo(f"stage {stage.stage}: not counted: {', '.join(stage.missing)}")
