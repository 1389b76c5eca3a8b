"""``vita-train model export``: the newest weights of a run as one directory, in our layout or in
someone else's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export")(export)


def export(
    run: Annotated[
        str, typer.Argument(help="Run directory or URI, <storage.root>/<run>.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Directory to write.", show_default=False)],
    to: Annotated[
        str,
        typer.Option(
            help="Layout: own (runs by itself), vita (released VITA-1.5), vita-stage "
            "(the files a stage of its trainer leaves), internvl (images "
            "and text, for transformers' InternVL classes), llava-hf, llava, xtuner (images and "
            "text: transformers' LLaVA classes, LLaVA's repository, AuroraCap's folders), hf "
            "(transformers' AutoModel with this package), adapter (only the last adapters that "
            "were trained, for PEFT), or one of a plugin."
        ),
    ] = "own",
    max_shard_size: Annotated[
        str, typer.Option(help="Largest file of weights, as 2GB; the layout's own when empty.")
    ] = "",
    fp32: Annotated[
        bool, typer.Option("--fp32", help="Write parameters as float32, not in the recipe's type.")
    ] = False,
) -> None:
    """Write the newest weights of a run with all that is needed to use them, and check that they
    load back."""
    from vita_train.models.quiet import quiet_libraries

    quiet_libraries()  # before transformers is imported
    from vita_train.cli.sizes import bytes_of
    from vita_train.runs.run import Run
    from vita_train.weights.formats.exporting import export_run_as
    from vita_train.weights.pretrained import EXPORT_MANIFEST

    size = bytes_of(max_shard_size, "--max-shard-size") if max_shard_size else 0
    files = export_run_as(Run.open(run), out, to, shard_bytes=size, fp32=fp32)
    typer.echo(
        f"{out}: {len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB"
    )
    manifest = out / EXPORT_MANIFEST  # a layout of a plugin may have none
    summary = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else {}
    reasons = summary.get("reasons", {})
    for name in summary.get("left_out", []):
        why = reasons.get(name, f"layout {to} has no place for it")
        typer.echo(f"left out: {name} ({why})")
