"""``vita-train data concat``, ``convert``, ``count``, ``endings`` and ``video-shards``: records and
media made into others, and counted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from vita_train.data.convert.concat import ConcatReport, ConcatSettings
    from vita_train.data.convert.media import ConvertReport

Roots = Annotated[
    list[str] | None,
    typer.Option("--root", metavar="[KEY=]DIR", help="Where media lie, by set; repeatable."),
]
RecipeOption = Annotated[str, typer.Option(help="Recipe with tokenizer and tiling.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the recipe."),
]
Workers = Annotated[int, typer.Option(help="Processes; the result does not depend on it.", min=1)]

MediaChoice = Literal["image", "audio"]
Side = Literal["longest", "shortest", "square"]
Square = Literal["pad", "crop", "squash"]
ImageFormats = Literal["jpeg", "png", "webp", "keep"]
AudioFormats = Literal["wav", "flac"]

CORES = os.cpu_count() or 1


def register(group: typer.Typer) -> None:
    """Add the commands to the ``data`` group."""
    group.command()(concat)
    group.command()(convert)
    group.command()(count)
    group.command()(endings)
    group.command("video-shards")(video_shards)


def concat(
    files: Annotated[
        list[Path],
        typer.Argument(help="Record files, or folders of such.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="Record file to write.", show_default=False)],
    tokens: Annotated[int, typer.Option(help="The most a joined record may have.", min=1)] = 6000,
    same_set: Annotated[
        bool, typer.Option("--same-set", help="Join only records of the same sets.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Another seed, other neighbours.", min=0)] = 0,
    recipe: RecipeOption = "vita-1.5-7b",
    settings: Set = None,
    tokenizer: Annotated[
        str, typer.Option(help="Folder or hub name, in place of the recipe's.", metavar="NAME")
    ] = "",
    root: Roots = None,
    adapter: Annotated[
        str | None, typer.Option(help="Layout of the records; the format's own unless given.")
    ] = None,
    workers: Workers = CORES,
) -> None:
    """Join short records into conversations of several turns; say where each record went."""
    from vita_train.data.convert.concat import ConcatSettings

    changes = [*(settings or []), *([f"tokenizer.source={tokenizer}"] if tokenizer else [])]
    run_concat(
        files,
        out,
        ConcatSettings(tokens, not same_set, seed),
        recipe=(recipe, changes),
        roots=root or ["."],
        adapter=adapter,
        workers=workers,
    )


def convert(
    folder: Annotated[Path, typer.Argument(help="Folder with media.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder to write.", show_default=False)],
    only: Annotated[
        MediaChoice | None, typer.Option(help="Convert only this kind of media.")
    ] = None,
    size: Annotated[int, typer.Option(help="Pixels of an image; 0 keeps sizes.", min=0)] = 448,
    side: Annotated[Side, typer.Option(help="What --size is the length of.")] = "longest",
    square: Annotated[
        Square, typer.Option(help="With --side square, how an image becomes one.")
    ] = "pad",
    image_format: Annotated[ImageFormats, typer.Option(help="Format of images.")] = "jpeg",
    quality: Annotated[int, typer.Option(help="Of JPEG and WebP.", min=1, max=100)] = 95,
    enlarge: Annotated[bool, typer.Option("--enlarge", help="Enlarge smaller images.")] = False,
    rate: Annotated[int, typer.Option(help="Samples a second.", min=1000, max=768_000)] = 16000,
    audio_format: Annotated[AudioFormats, typer.Option(help="Format of audio.")] = "wav",
    max_seconds: Annotated[
        float, typer.Option(help="Longer recordings are rejected.", min=1, max=86_400)
    ] = 3600,
    records: Annotated[
        Path | None, typer.Option(help="Record file whose media lie in the folder.")
    ] = None,
    out_records: Annotated[
        Path | None, typer.Option(help="Where to write it with the new names.")
    ] = None,
    max_rejects: Annotated[int, typer.Option(help="Rejects that are allowed.", min=0)] = 0,
    workers: Workers = CORES,
) -> None:
    """Write images of one size and format and audio as mono of one rate; originals stay."""
    from vita_train.data.convert.media import ConvertSettings, convert_folder
    from vita_train.data.convert.rename import rename_media
    from vita_train.data.media.encode import AudioOutput, ImageOutput, Output
    from vita_train.errors import DataError, UserError

    if (records is None) != (out_records is None):
        raise UserError(
            "--records and --out-records go together",
            code="VT-USE-225",
            where="data convert",
            remedy="give both, or none",
        )
    image = ImageOutput(size or None, side, square, image_format, quality, enlarge)
    settings = ConvertSettings(
        Output(image, AudioOutput(rate, audio_format)),
        (only,) if only else ("image", "audio"),
        max_seconds,
    )
    report = convert_folder(folder, out, settings, workers=workers)
    print_conversion(report)
    rejected = report.reasons.total()
    if records is not None and out_records is not None:
        kept, reasons = rename_media(records, out_records, report.targets, settings.kinds)
        for reason, number in sorted(reasons.items()):
            typer.echo(f"records rejected: {reason} {number}")
        typer.echo(f"{out_records}: {kept} records, {reasons.total()} rejected")
        rejected += reasons.total()
    if rejected > max_rejects:
        raise DataError(
            f"{rejected} files and records rejected, {max_rejects} are allowed; the others are "
            "written",
            code="VT-DATA-076",
            where=str(folder),
            remedy=f"see {out / 'convert.jsonl'}; correct them, or allow some: --max-rejects",
        )


def print_conversion(report: ConvertReport, limit: int = 20) -> None:
    """Print what became of the files of a folder."""
    from vita_train.printable import printable

    for each in report.rejects[:limit]:
        typer.echo(f"{each.reason}: {printable(each.detail)}", err=True)
    for reason, number in sorted(report.reasons.items()):
        typer.echo(f"rejected: {reason} {number}")
    typer.echo(
        f"{report.files} files: {report.written} written, {report.current} up to date, "
        f"{report.reasons.total()} cannot be used; {report.others} other files left out"
    )


def count(
    targets: Annotated[
        list[Path],
        typer.Argument(help="Record files, registries, prepared corpora.", show_default=False),
    ],
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Measure tokens, tiles and seconds by this recipe, and print the mixture of its "
            "stages.",
            show_default=False,
        ),
    ] = None,
    settings: Set = None,
    root: Roots = None,
    adapter: Annotated[
        str | None, typer.Option(help="Of record files: the layout that they have.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with charts.")] = None,
    workers: Workers = CORES,
) -> None:
    """Count records, turns, media, tokens and scripts, before and after preparation."""
    from vita_train.cli.counting import run_count

    run_count(
        targets,
        recipe=recipe,
        settings=settings or [],
        roots=root or [],
        adapter=adapter,
        as_json=as_json,
        html=html,
        workers=workers,
    )


def run_concat(
    files: list[Path],
    out: Path,
    settings: ConcatSettings,
    *,
    recipe: tuple[str, list[str]],
    roots: list[str],
    adapter: str | None,
    workers: int,
) -> ConcatReport:
    """Join the records of files, and print what became of them.

    Raises:
        UserError: no such files, or the recipe names no tokenizer.
        DataError: a file cannot be read, or a media root is missing or empty.
    """
    from vita_train.data.check.examine import length_examiner
    from vita_train.data.check.targets import open_target
    from vita_train.data.convert.concat import concat_records, record_files
    from vita_train.recipe.load import load_recipe

    sources = [
        source
        for path in record_files(files)
        for source in open_target(path, roots=roots, adapter=adapter)
    ]
    with length_examiner(load_recipe(*recipe), workers=workers) as examiner:
        report = concat_records(sources, out, examiner, settings)
    for reason, count in sorted(report.reasons.items()):
        typer.echo(f"rejected: {reason} {count}")
    typer.echo(
        f"{out}: {report.read} records read, {report.used} in {report.written} "
        f"({report.alone} alone, {report.over} of them over {settings.tokens} tokens), "
        f"{report.read - report.used} rejected; {out.stem}.ledger.jsonl says where each went"
    )
    return report


def endings(
    records: Annotated[Path, typer.Argument(help="Record file.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Record file to write.", show_default=False)],
    root: Annotated[list[Path], typer.Option(metavar="DIR", help="Where images lie; repeatable.")],
) -> None:
    """Give image names the endings that the files have; say which images are not there."""
    from vita_train.data.convert.endings import resolve_endings

    written, rejected, changed = resolve_endings(records, root, out)
    typer.echo(f"{out}: {written} records, {rejected} rejected, {changed} names changed")


def video_shards(
    folder: Annotated[Path, typer.Argument(help="Folder of tar shards.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="Write shards without broken clips; else only the index is written."),
    ] = None,
) -> None:
    """Leave broken clips out of WebDataset shards of videos, and write the index of shards."""
    from vita_train.data.convert.video_shards import clean_shards, index_shards

    if out is None:
        typer.echo(f"{folder}: {index_shards(folder)} samples")
        return
    counts = clean_shards(folder, out)
    for reason, count in sorted(counts.reasons.items()):
        typer.echo(f"rejected: {reason} {count}")
    typer.echo(f"{out}: {counts.kept} of {counts.samples} samples")
