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
    from vita_train.cli import (
        data_catalogue,
        data_convert,
        data_crawl,
        data_mixture,
        data_rewrite,
        data_select,
        data_speak,
    )
    from vita_train.cli.tools import tools

    data_catalogue.register(group)
    data_convert.register(group)
    data_crawl.register(group)
    data_mixture.register(group)
    data_rewrite.register(group)
    data_select.register(group)
    data_speak.register(group)
    group.add_typer(tools, name="tools")
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
    from vita_train.data.discover.look import look_at
    from vita_train.data.discover.project import write_project

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
def records(
    folder: Annotated[Path, typer.Argument(help="Folder with recordings.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Where records and registry go.")] = Path("."),
    name: Annotated[str, typer.Option(help="Name of the dataset.")] = "speech",
    table: Annotated[
        Path | None,
        typer.Option(
            help="CSV or TSV with a header: audio, text, perhaps speaker; with start and end in "
            "seconds, pieces are cut out."
        ),
    ] = None,
    speaker: Annotated[
        str, typer.Option(help="Regular expression; its first group is the speaker in a path.")
    ] = r"^([^/]+)/",
    any_speaker: Annotated[
        bool, typer.Option("--any-speaker", help="Let splits share speakers.")
    ] = False,
    dev: Annotated[float, typer.Option(help="Share of recordings.", min=0, max=0.5)] = 0.05,
    test: Annotated[float, typer.Option(help="Share of recordings.", min=0, max=0.5)] = 0.05,
    seed: Annotated[int, typer.Option(help="Another seed, other speakers.", min=0)] = 0,
    normalise: Annotated[
        bool, typer.Option("--normalise", help="Lower case, letters and digits only.")
    ] = False,
    prompt: Annotated[
        str, typer.Option(help="What is asked of each recording.")
    ] = "<audio>\nTranscribe the speech.",
) -> None:
    """Make records and a registry of recordings with transcripts; splits share no speaker."""
    from vita_train.data.recording_segments import read_segments
    from vita_train.data.recordings import RecordingSettings, read_recordings, write_recordings

    settings, pieces = RecordingSettings(prompt, normalise, speaker), out / "segments"
    found = read_segments(folder, settings, table, pieces) if table else None
    root = folder if found is None else pieces
    found = found or read_recordings(folder, settings, table)
    parts = {split: share for split, share in (("dev", dev), ("test", test)) if share}
    write_recordings(found, root, out, name, parts, seed=seed, any_speaker=any_speaker)
    typer.echo(
        f"wrote {out / 'registry.yaml'}: {len(found.records)} records of "
        f"{len(set(found.speakers))} speakers; {len(found.skipped)} files or lines not used "
        f"(skipped.jsonl)\ncheck:  vita-train data check {out / 'registry.yaml'}"
    )


@group.command("import-config")
def import_config(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Folder with the public trainer's dataset_config.py and __init__.py.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Registry to write.")] = Path("registry.yaml"),
    kinds: Annotated[
        list[str] | None,
        typer.Option("--kind", metavar="NAME=KIND", help="Task kind of a dataset."),
    ] = None,
    image_folder: Annotated[
        str | None,
        typer.Option(
            "--image-folder", "--image_folder", help="Takes the place of every image root."
        ),
    ] = None,
    audio_segment: Annotated[
        bool,
        typer.Option(
            "--audio-segment", help="Look for audio in AudioFolder/audio, as the public code does."
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a registry of the public trainer's data configuration, which is read and never
    executed."""
    from vita_train.compat.vita.dataset_config import check_chat_paths, read_config
    from vita_train.data.sources.public_config import to_registry
    from vita_train.errors import UserError
    from vita_train.recipe.yaml_tree import dump_yaml
    from vita_train.storage.whole_file import whole_file

    pairs = [word.partition("=") for word in kinds or []]
    if wrong := next((name for name, _, kind in pairs if not kind), None):
        raise UserError(
            f"--kind {wrong} names no kind", code="VT-USE-136", remedy="write --kind NAME=KIND"
        )
    if out.exists() and not force:
        raise UserError(
            "is already there",
            code="VT-USE-137",
            where=str(out),
            remedy="give another --out, or --force",
        )
    config = read_config(folder)
    imported = to_registry(
        config,
        kinds={name: kind for name, _, kind in pairs},
        image_folder=image_folder,
        audio_segment=audio_segment,
    )
    for name, kind in imported.inferred.items():
        typer.echo(f"{name}: {kind}, ratio {config.datasets[name].ratio:g}")
    for name, members in imported.registry.groups.items():
        typer.echo(f"group {name}: {', '.join(members)}")
    for note in (*imported.notes, *check_chat_paths(config)):
        typer.echo(f"note: {note}", err=True)
    with whole_file(out) as stream:
        stream.write(dump_yaml(imported.registry.model_dump(mode="json")))
    typer.echo(f"wrote {out}\ntrain:  vita-train train --registry {out} --dataset_use NAME ...")


@group.command()
def check(
    target: Annotated[
        Path,
        typer.Argument(
            help="Record file or registry; with REGISTRY, the recipe that lengths are measured by.",
            show_default=False,
        ),
    ],
    registry: Annotated[
        Path | None, typer.Argument(help="Registry file.", show_default=False)
    ] = None,
    settings: Set = None,
    roots: Annotated[
        list[str] | None,
        typer.Option(
            "--root", metavar="[KEY=]DIR", help="Of a record file: where media lie, by set."
        ),
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(help="Of a record file: the layout that it has.")
    ] = None,
    lenient: Annotated[
        list[str] | None, typer.Option(help="Of a record file: a leniency. Repeatable.")
    ] = None,
    max_rejects: Annotated[
        float,
        typer.Option(
            help="Rejected records that are allowed: a number, or below 1 a share of each split. "
            "A recipe has data.max_reject_share.",
            min=0,
        ),
    ] = 0,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(help="A finding that turns the data down, `leak: media` say. Repeatable."),
    ] = None,
    no_media: Annotated[bool, typer.Option("--no-media", help="Look at no media file.")] = False,
    rejects: Annotated[
        Path | None, typer.Option(help="Write every rejected record as a line of JSON.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with examples to look at and listen to.")
    ] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the counts.")] = None,
    workers: Workers = _CORES,
    limit: Annotated[int, typer.Option(help="Rejected rows to print.", min=0)] = 20,
) -> None:
    """Check records and their media, and write no corpus: structure, media, repetition, leaks."""
    from vita_train.cli.checking import run_check

    run_check(
        target,
        registry,
        settings or [],
        roots=roots or [],
        adapter=adapter,
        lenient=lenient or [],
        max_rejects=max_rejects,
        fail_on=tuple(fail_on or ()),
        media=not no_media,
        rejects=rejects,
        html=html,
        json_out=json_out,
        workers=workers,
        limit=limit,
    )


@group.command()
def prepare(
    recipe: RecipeName,
    registry: RegistryPath,
    out: Out,
    settings: Set = None,
    workers: Workers = _CORES,
) -> None:
    """Write the corpus that stages train on: tokenizer, indexes, rejects and ledger.

    Then say how full rows are and how evenly the recipe's ranks share the work of a step.
    """
    from vita_train.data.index.corpus import Corpus
    from vita_train.data.prepare.run import prepare as prepare_data
    from vita_train.planning.rows import row_use
    from vita_train.recipe.load import load_recipe

    resolved = load_recipe(recipe, settings or [])
    ledger = prepare_data(resolved, registry, out, workers=workers)
    typer.echo(f"{out}: {ledger.used} of {ledger.records} records, {ledger.rejected} rejected")
    for use in row_use(resolved, Corpus.open(out)):
        typer.echo(
            f"stage {use.stage}: rows of {use.seq_len} tokens are {use.fill:.0%} full, balance of "
            f"{use.ranks} rank{'' if use.ranks == 1 else 's'} {use.balance:.2f}"
        )


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
        f"{'split':<26}{'records':>9}{'tokens':>11}{'longest':>9}"
        f"{'supervised':>12}{'tiles':>9}{'hours':>8}"
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
