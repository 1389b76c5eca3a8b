"""The public commands that tokenise data before training, under their names (AuroraCap, after
xtuner)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vita_train.cli.data_convert import CORES, Set, Workers

pretokenising = typer.Typer()

Config = Annotated[
    str, typer.Argument(metavar="CONFIG", help="Recipe: a name or a YAML file.", show_default=False)
]
SaveFolder = Annotated[Path, typer.Option("--save-folder", "--save_folder", show_default=False)]


@pretokenising.command("process_untokenized_llava_data")
def process_untokenized_llava_data(
    config: Config, save_folder: SaveFolder, settings: Set = None, workers: Workers = CORES
) -> None:
    """Prepare all data of a recipe, for `data.prepared` of the runs that train on them."""
    from vita_train.data.tools.pretokenise import load_config, prepare_whole

    prepare_whole(load_config(config, settings or []), save_folder, workers=workers)
    _show_prepared(save_folder)


@pretokenising.command("process_untokenized_large_data")
def process_untokenized_large_data(
    config: Config,
    save_folder: SaveFolder,
    input_file: Annotated[
        Path, typer.Option("--input-file", "--input_file", help="JSON Lines.", show_default=False)
    ],
    jsonl_output_folder: Annotated[
        Path,
        typer.Option(
            "--jsonl-output-folder",
            "--jsonl_output_folder",
            help="Where the chunks of lines go.",
            show_default=False,
        ),
    ],
    dataset: Annotated[
        str, typer.Option(help="Dataset of the records, where the recipe's data have several.")
    ] = "",
    lines: Annotated[int, typer.Option(help="Of a chunk.", min=1)] = 100_000,
    settings: Set = None,
    workers: Workers = CORES,
) -> None:
    """Cut a file of records into chunks and prepare each, with a commit of its own."""
    from vita_train.data.tools.pretokenise import load_config, prepare_chunks

    made = prepare_chunks(
        load_config(config, settings or []),
        input_file,
        jsonl_output_folder,
        save_folder,
        dataset=dataset,
        lines=lines,
        workers=workers,
    )
    typer.echo(f"{save_folder}: {len(made)} chunks; merge_sharded_data joins them")


@pretokenising.command("merge_trunck", help="The same as merge_sharded_data.")
@pretokenising.command("merge_sharded_data")
def merge_sharded_data(
    data_folder: Annotated[
        Path, typer.Option("--data_folder", "--data-folder", exists=True, show_default=False)
    ],
    save_folder: SaveFolder,
) -> None:
    """Join the prepared chunks of a folder to one, in the order of their numbers."""
    from vita_train.data.prepare.merge import merge_prepared, prepared_below

    merge_prepared(prepared_below(data_folder), save_folder)
    _show_prepared(save_folder)


def _show_prepared(corpus: Path) -> None:
    """Print how many rows a prepared corpus has, and its first."""
    from vita_train.data.index.corpus import Corpus
    from vita_train.data.prepare.ledger import PrepareLedger

    ledger = PrepareLedger.load(corpus / "ledger.json")
    typer.echo(f"{corpus}: {ledger.used} of {ledger.records} records, {ledger.rejected} rejected")
    filled = next((split for split in ledger.splits if split.used), None)
    if filled is not None:
        row = Corpus.open(corpus).index(filled.dataset, filled.split).sample(0)
        first = {"id": row.record_id, "conversation": row.turns, "input_ids": row.ids.tolist()}
        typer.echo(json.dumps(first, indent=1))
