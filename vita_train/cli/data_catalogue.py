"""``vita-train data list | show | add | fetch | inventory``: public corpora and models, and files
from elsewhere."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vita_train.data.fetch.listing import Listed

Folders = Annotated[
    list[Path] | None,
    typer.Option("--catalogue", metavar="DIR", help="Folder with further entries."),
]


def register(group: typer.Typer) -> None:
    """Add the commands to the ``data`` group."""
    group.command(name="list")(list_entries)
    group.command()(show)
    group.command()(add)
    group.command()(fetch)
    group.command()(inventory)


def list_entries(
    stage: Annotated[str, typer.Option(help="Only those of a stage, such as 1.2.")] = "",
    kind: Annotated[
        str, typer.Option(help="Only corpus, media, model or evaluation.", metavar="KIND")
    ] = "",
    catalogue: Folders = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the corpora and models that can be fetched by name."""
    from vita_train.data.catalogue.load import load_catalogue
    from vita_train.data.fetch.progress import size

    entries = [
        entry
        for entry in load_catalogue(catalogue or []).entries.values()
        if (not stage or stage in entry.stages) and (not kind or entry.kind == kind)
    ]
    if as_json:
        typer.echo(json.dumps([entry.model_dump(exclude_none=True) for entry in entries], indent=1))
        return
    for entry in entries:
        amount = f"{entry.hours:g} h" if entry.hours else f"{entry.records or '?'} records"
        amount = amount if entry.kind in ("corpus", "evaluation") else entry.kind
        stages = ",".join(entry.stages) or "-"
        typer.echo(
            f"{entry.name:<34} {size(entry.bytes) if entry.bytes else '?':>9}  {amount:<18} "
            f"{stages:<18} {entry.licence.name}"
        )


def show(
    name: Annotated[str, typer.Argument(help="Name of an entry.", show_default=False)],
    catalogue: Folders = None,
) -> None:
    """Show one entry: places, licence, sizes, where its files go, and how to fetch it."""
    import yaml

    from vita_train.data.catalogue.load import load_catalogue
    from vita_train.data.fetch.run import tree

    known = load_catalogue(catalogue or [])
    entry = known[name]
    plain = json.loads(entry.model_dump_json(exclude_defaults=True))
    typer.echo(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100), nl=False)
    typer.echo("target tree:")
    for line in tree(entry):
        typer.echo(f"  {line}")
    typer.echo(f"from: {known.files[name]}\nfetch: vita-train data fetch {name} --to DIR")


def add(
    file: Annotated[Path, typer.Argument(help="YAML file of an entry.", show_default=False)],
) -> None:
    """Add an entry to your own catalogue, after it was checked."""
    from vita_train.data.catalogue.load import add_entry

    typer.echo(f"added: {add_entry(file)}")


def fetch(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Names of the catalogue, addresses (https:, hf:, modelscope:, s3:, file:, "
            "debian:), or one recipe: then the data of its sources, with their registry.",
            show_default=False,
        ),
    ],
    to: Annotated[
        Path | None,
        typer.Option(
            help="Target folder; VITA_TRAIN_DATA unless given.", metavar="DIR", show_default=False
        ),
    ] = None,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Accept the licences that are shown.")
    ] = False,
    mirror: Annotated[
        str | None,
        typer.Option("--from", metavar="MIRROR", help="Fetch from a mirror: modelscope."),
    ] = None,
    needs: Annotated[
        bool, typer.Option(help="Also fetch the media that records of an entry name.")
    ] = True,
    unpack: Annotated[bool, typer.Option(help="Unpack archives at addresses.")] = True,
    keep_archives: Annotated[
        bool, typer.Option("--keep-archives", help="Keep archives that were unpacked.")
    ] = False,
    update: Annotated[
        bool, typer.Option("--update", help="Take newer versions than those of the lock file.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the files and their sizes; fetch nothing.")
    ] = False,
    per_host: Annotated[int, typer.Option(min=1, max=64, help="Files at once from each host.")] = 4,
    catalogue: Folders = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the recipe."),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that make a recipe's data.")
    ] = os.cpu_count() or 1,
) -> None:
    """Fetch corpora and models to a folder: resumed, checked, unpacked, with a lock file."""
    from vita_train.data.catalogue.load import load_catalogue
    from vita_train.data.fetch.folder import DATA, data_folder
    from vita_train.data.fetch.limits import Limits
    from vita_train.data.fetch.listing import list_files
    from vita_train.data.fetch.run import fetch as fetch_entries
    from vita_train.data.fetch.source import parse_sources, with_needs
    from vita_train.errors import UserError

    folder = to or data_folder()
    if folder is None:
        raise UserError(
            "no target folder was named",
            code="VT-USE-211",
            remedy=f"give one by --to DIR, or set {DATA}",
        )
    folder = folder.expanduser()
    if len(sources) == 1 and _is_recipe(sources[0]):
        _fetch_recipe(sources[0], folder, settings or [], workers)
        return
    known = load_catalogue(catalogue or [])
    entries = parse_sources(sources, known, unpack)
    if needs:
        entries = with_needs(entries, known)
    if dry_run:
        _show_listing(
            list_files(
                entries,
                folder,
                catalogue=known,
                mirror=mirror,
                update=update,
                limits=Limits(per_host=per_host),
            )
        )
        return
    done = fetch_entries(
        entries,
        folder,
        catalogue=known,
        accept_licence=accept_licence,
        mirror=mirror,
        update=update,
        keep_archives=keep_archives,
        limits=Limits(per_host=per_host),
    )
    typer.echo(
        f"{folder}: {done.files} files, {done.transferred} fetched now, {done.unpacked} archives "
        "unpacked now"
    )


def _show_listing(files: list[Listed]) -> None:
    from vita_train.data.fetch.progress import size

    for file in files:
        told = "size not told" if file.bytes is None else size(file.bytes)
        typer.echo(f"{file.path}  {told}{'  there already' if file.there else ''}")
    left = [file for file in files if not file.there]
    whole, rest = (size(sum(file.bytes or 0 for file in some)) for some in (files, left))
    typer.echo(f"{len(files)} files, {whole}; to fetch: {len(left)} files, {rest}")


def _is_recipe(word: str) -> bool:
    from vita_train.recipe.presets import preset_names

    return word.endswith((".yaml", ".yml")) or word in preset_names()


def _fetch_recipe(recipe: str, out: Path, settings: list[str], workers: int) -> None:
    from vita_train.data.sources.fetch import fetch_all
    from vita_train.recipe.load import load_recipe

    resolved = load_recipe(recipe, settings)
    registry = fetch_all(resolved.data.source, out, seed=resolved.seed, workers=workers)
    typer.echo(f"{out / 'registry.json'}: {', '.join(sorted(registry.datasets))}")


def inventory(
    name: Annotated[str, typer.Argument(help="Name of an entry.", show_default=False)],
    to: Annotated[
        Path | None,
        typer.Option(
            help="Target folder; VITA_TRAIN_DATA unless given.", metavar="DIR", show_default=False
        ),
    ] = None,
    catalogue: Folders = None,
) -> None:
    """Hold what was fetched against what its publisher has: names, numbers, rows, columns."""
    from vita_train.data.catalogue.expected import lines, take_inventory
    from vita_train.data.catalogue.load import load_catalogue
    from vita_train.data.fetch.folder import DATA, data_folder
    from vita_train.errors import DataError, UserError

    entry, folder = load_catalogue(catalogue or [])[name], to or data_folder()
    if entry.expected is None:
        raise UserError(
            f"nothing is known of how many files {name} has",
            code="VT-USE-292",
            remedy="vita-train data check looks at records and their media",
        )
    if folder is None:
        raise UserError(
            "no target folder was named",
            code="VT-USE-293",
            remedy=f"give one by --to DIR, or set {DATA}",
        )
    found = take_inventory(entry.expected, folder.expanduser())
    for line in lines(found):
        typer.echo(line)
    if found.faults:
        raise DataError(
            f"{len(found.faults)} things are not as published",
            code="VT-DATA-137",
            where=str(folder),
            remedy=f"fetch the rest: vita-train data fetch {name} --to {folder}",
        )
