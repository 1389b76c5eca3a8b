"""``vita-train data concat``: record files and their media made into others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vita_train.data.convert.concat import ConcatReport, ConcatSettings

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

CORES = os.cpu_count() or 1


def register(group: typer.Typer) -> None:
    """Add the commands to the ``data`` group."""
    group.command()(concat)


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
