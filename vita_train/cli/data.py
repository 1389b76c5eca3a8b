"""``vita-train data``: make, fetch, check, prepare and measure corpora."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

RecipeName = Annotated[
    str,
    typer.Argument(help="Name of a shipped recipe, or path of a YAML file.", show_default=False),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the recipe."),
]
Out = Annotated[Path, typer.Argument(help="Directory to write.", show_default=False)]
RegistryPath = Annotated[
    Path,
    typer.Argument(
        help="Registry file: datasets, splits, record files and media roots.", show_default=False
    ),
]
CorpusPath = Annotated[
    Path, typer.Argument(help="Directory that `data prepare` wrote.", show_default=False)
]
Workers = Annotated[int, typer.Option(help="Processes; the result does not depend on it.", min=1)]

_CORES = os.cpu_count() or 1

group = typer.Typer(help="Make, fetch, check, prepare and measure corpora.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the ``data`` group."""
    from vita_train.cli import data_catalogue

    data_catalogue.register(group)
    app.add_typer(group, name="data")


@group.command()
def synth(
    out: Out,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
    scale: Annotated[float, typer.Option(help="Multiplies the number of training records.")] = 1.0,
    workers: Workers = _CORES,
) -> None:
    """Make the embedded synthetic world."""
    from vita_train.data.sources.fetch import fetch as fetch_source
    from vita_train.recipe.data import SynthSource

    registry = fetch_source(SynthSource(scale=scale), out, seed=seed, workers=workers)
    typer.echo(f"{out / 'registry.json'}: {', '.join(sorted(registry.datasets))}")


@group.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Folder with media and JSON.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="Where registry and recipe go; the folder itself unless given."),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the recipe; the folder's unless given.")] = "",
) -> None:
    """Write a first registry and recipe for a folder of media and JSON, and say what was not
    understood."""
    from vita_train.data.discover import look_at, write_project

    place = out or folder
    findings = look_at(folder, place)
    files = write_project(findings, name, place)
    for dataset, task in findings.registry.tasks.items():
        splits = ", ".join(findings.registry.datasets[dataset].splits)
        typer.echo(
            f"{dataset}: {task}, {findings.records.get(dataset, 0)} records for training ({splits})"
        )
    for note in findings.notes:
        typer.echo(f"not understood: {note}")
    typer.echo(
        f"wrote {', '.join(map(str, files))}\ncheck:  vita-train data check {files[1]} {files[0]}\n"
        f"train:  vita-train run {files[1]}"
    )


@group.command()
def check(
    recipe: RecipeName,
    registry: RegistryPath,
    settings: Set = None,
    workers: Workers = _CORES,
    limit: Annotated[int, typer.Option(help="Rejected rows to print.", min=0)] = 20,
) -> None:
    """Check every record and its media as preparation does, and write nothing."""
    from vita_train.data.check.run import check as check_data
    from vita_train.data.prepare.ledger import reject_line
    from vita_train.errors import DataError
    from vita_train.recipe.load import load_recipe

    report = check_data(registry, load_recipe(recipe, settings or []), workers=workers)
    for dataset, split, reject in report.rejects[:limit]:
        typer.echo(reject_line(dataset, split, reject), nl=False)
    ledger = report.ledger
    if not report.ok:
        raise DataError(
            "; ".join(report.faults[:3]),
            code="VT-DATA-001",
            where=str(registry),
            remedy="correct the records, or allow a share with data.max_reject_share",
        )
    typer.echo(
        f"{registry}: ok, {ledger.used} of {ledger.records} records can be used, {ledger.rejected} "
        f"rejected"
    )


@group.command()
def prepare(
    recipe: RecipeName,
    registry: RegistryPath,
    out: Out,
    settings: Set = None,
    workers: Workers = _CORES,
) -> None:
    """Write the corpus that stages train on: tokenizer, indexes, rejects and ledger."""
    from vita_train.data.prepare.run import prepare as prepare_data
    from vita_train.recipe.load import load_recipe

    ledger = prepare_data(load_recipe(recipe, settings or []), registry, out, workers=workers)
    typer.echo(f"{out}: {ledger.used} of {ledger.records} records, {ledger.rejected} rejected")


@group.command()
def stats(
    corpus: CorpusPath, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """Print what a prepared corpus holds."""
    from dataclasses import asdict

    from vita_train.data.index.corpus import Corpus
    from vita_train.data.index.stats import SECOND_EDGES, TOKEN_EDGES, corpus_stats

    rows = corpus_stats(Corpus.open(corpus))
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=1))
        return
    typer.echo(
        f"{'split':<26}{'records':>9}{'tokens':>11}{'longest':>9}{'supervised':>12}{'tiles':>9}{'hours':>8}"
    )
    for row in rows:
        typer.echo(
            f"{row.dataset + '/' + row.split:<26}{row.records:>9}{row.tokens:>11}{row.longest:>9}"
            f"{row.supervised:>12}{row.tiles:>9}{row.hours:>8.2f}"
        )
    _histogram("records by tokens", TOKEN_EDGES, [row.token_counts for row in rows])
    _histogram("records by seconds of audio", SECOND_EDGES, [row.second_counts for row in rows])


@group.command()
def tokens(
    recipe: RecipeName,
    image: Annotated[
        list[str] | None, typer.Option(metavar="WxH", help="Size of an image in pixels.")
    ] = None,
    video: Annotated[
        list[float] | None, typer.Option(metavar="SECONDS", help="Length of a video at 25 fps.")
    ] = None,
    audio: Annotated[
        list[float] | None, typer.Option(metavar="SECONDS", help="Length of a clip.")
    ] = None,
    settings: Set = None,
) -> None:
    """Print how many tokens media take."""
    from vita_train.planning.tokens import audio_cost, image_cost, video_cost
    from vita_train.recipe.load import load_recipe

    resolved = load_recipe(recipe, settings or [])
    for size in image or []:
        typer.echo(f"image {size}: {image_cost(size, resolved)}")
    for seconds in video or []:
        typer.echo(f"video {seconds:g} s: {video_cost(seconds, resolved)}")
    for seconds in audio or []:
        typer.echo(f"audio {seconds:g} s: {audio_cost(seconds, resolved)}")


def _histogram(title: str, edges: tuple[int, ...], counts: list[tuple[int, ...]]) -> None:
    totals = [sum(column) for column in zip(*counts, strict=True)]
    if not any(totals):
        return
    typer.echo(title)
    widest = max(totals)
    for low, high, total in zip(edges, [*edges[1:], None], totals, strict=True):
        name = f"{low}-{high}" if high is not None else f"over {low}"
        typer.echo(f"  {name:>12} {total:>9} {'#' * round(40 * total / widest)}")
