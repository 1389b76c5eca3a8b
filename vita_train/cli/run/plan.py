"""``vita-train plan``: what a recipe will need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from vita_train.planning.plan import Plan, StagePlan


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("plan")(plan)


def plan(
    recipe: Annotated[
        str,
        typer.Argument(
            help="Name of a shipped recipe, or path of a YAML file.", show_default=False
        ),
    ],
    gpu: Annotated[
        str,
        typer.Option(
            help="GPU to check against, its memory in GB at the end: h100-80.", show_default=False
        ),
    ] = "",
    ranks: Annotated[
        int, typer.Option(min=0, help="Processes; 0 takes the recipe's own number.")
    ] = 0,
    mfu: Annotated[
        float,
        typer.Option(min=0.01, max=1.0, help="Share of the GPU's peak that training reaches."),
    ] = 0.4,
    price: Annotated[
        float,
        typer.Option(min=0, help="Of one GPU for an hour, in any currency.", show_default=False),
    ] = 0.0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the recipe."),
    ] = None,
) -> None:
    """Show parameters, memory by sharding, hours on a GPU and the tokens of media, without running
    anything."""
    from rich.console import Console

    from vita_train.gpus import bfloat16_flops
    from vita_train.planning.plan import gpu_bytes, plan_recipe
    from vita_train.recipe.load import load_recipe

    memory = gpu_bytes(gpu) if gpu else 0
    resolved = load_recipe(recipe, settings or [])
    ranks = ranks or resolved.launch.ranks
    planned, console = plan_recipe(resolved, ranks=ranks), Console()
    _show(planned, ranks, memory, console)
    if peak := bfloat16_flops(gpu):
        _show_hours(planned, gpu, peak, ranks, mfu, price, console)


def _show_hours(
    plan: Plan, gpu: str, peak: float, ranks: int, mfu: float, price: float, console: Console
) -> None:
    from vita_train.planning.throughput import flops_per_token, hours_per_billion

    hours = _table(
        "stage", "what", "GFLOP a token", "tokens/s", "hours", *(["cost"] if price else [])
    )
    for stage in plan.stages:
        if stage.seq_len:
            taken = hours_per_billion(stage, peak, ranks, mfu)
            cost = [f"{taken * ranks * price:,.0f}"] if price else []
            hours.add_row(
                stage.stage,
                stage.title,
                f"{flops_per_token(stage) / 1e9:,.1f}",
                f"{1e9 / taken / 3600:,.0f}",
                f"{taken:,.1f}",
                *cost,
            )
    console.print(
        f"\n[bold]a billion tokens[/bold] on {ranks} x {gpu} at {mfu:.0%} of {peak / 1e12:,.0f} "
        f"TFLOP/s "
        "(an estimate: attention and recomputed activations come on top)",
        hours,
    )


def _show(plan: Plan, ranks: int, memory: int, console: Console) -> None:
    from vita_train.planning.parameters import CTC_VOCAB_SIZE

    modules = _table("module", "parameters")
    for name, count in plan.modules.items():
        modules.add_row(name, f"{count:,}")
    modules.add_row("together", f"{sum(plan.modules.values()):,}", style="bold")
    console.print(f"[bold]{plan.name}[/bold]", modules)
    if "ctc_head" in plan.modules:
        console.print(
            f"ctc_head is counted with {CTC_VOCAB_SIZE:,} units; transcripts decide the real "
            f"number.\n"
        )

    stages = _table(
        "stage", "what", "weights", "trained", "ZeRO 0", "1", "2", "3", "a rank's batch"
    )
    for stage in plan.stages:
        stages.add_row(
            stage.stage,
            stage.title,
            _count(sum(stage.modules.values())),
            _count(sum(stage.trained.values())),
            *(_gigabytes(stage, zero, ranks, memory) for zero in range(4)),
            _batch(stage),
        )
    console.print(
        f"[bold]stages on {ranks} process{'' if ranks == 1 else 'es'}[/bold], GB each for weights, "
        "gradients and optimizer by ZeRO stage, before activations",
        stages,
    )
    red = f" Red does not fit {memory / 1e9:.0f} GB." if memory else ""
    console.print(f"Marked with * is the sharding that the recipe chooses.{red}\n")

    media = _table("media", "tokens")
    for name, count in plan.positions.items():
        media.add_row(name, f"{count:,}")
    console.print(media)


def _table(*headings: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for heading in headings:
        text = heading in ("stage", "what", "module", "media")
        table.add_column(
            heading,
            justify="left" if text else "right",
            no_wrap=heading not in ("what", headings[-1]),
        )
    return table


def _gigabytes(stage: StagePlan, zero: int, ranks: int, memory: int) -> str:
    if stage.quantized and zero == 3:
        return "-"  # refused
    needed = stage.state_bytes(zero, ranks)
    text = f"{needed / 1e9:,.1f}" if needed >= 1e8 else f"{needed / 1e9:,.3f}"
    text += "*" if zero == stage.zero else ""
    return f"[red]{text}[/red]" if memory and needed > memory else text


def _batch(stage: StagePlan) -> str:
    return f"{stage.rows} x {stage.seq_len:,}" if stage.seq_len else f"{stage.rows} samples"


def _count(count: int) -> str:
    return f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.1f} M"
