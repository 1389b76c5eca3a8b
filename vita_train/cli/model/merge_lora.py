"""``vita-train model merge-lora``: adapters of a stage merged into whole weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("merge-lora")(merge_lora)


def merge_lora(
    run: Annotated[
        str, typer.Argument(help="Run directory or URI, <storage.root>/<run>.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Directory to make.", show_default=False)],
    stage: Annotated[
        str,
        typer.Option(
            help="Stage id or alias; the last one that trained adapters when not given.",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Merge a stage's adapters into the weights they were trained on, and tell how much the logits
    change."""
    from vita_train.models.quiet import quiet_libraries

    quiet_libraries()  # before transformers is imported
    from vita_train.runs.run import Run
    from vita_train.weights.merge import merge_stage

    opened = Run.open(run)
    merged = merge_stage(opened, out, stage=stage)
    typer.echo(
        f"{out}: stage {merged.stage} merged; logits up to {merged.largest_logit:.3g} change by "
        f"{merged.difference:.3g} at most, {merged.rounded:.3g} stored as "
        f"{opened.recipe.model.dtype}"
    )
