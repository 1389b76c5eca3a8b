"""``vita-train plan``: what a recipe will need."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vita_train.cli.run.tables import table

if TYPE_CHECKING:
    from rich.console import Console

    from vita_train.planning.plan import Plan, StagePlan
    from vita_train.recipe.schema import Recipe


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
        typer.Option(
            min=0.0,
            max=1.0,
            help="Share of the GPU's peak that products of matrices reach; 0 takes the table's.",
        ),
    ] = 0.0,
    price: Annotated[
        float,
        typer.Option(min=0, help="Of one GPU for an hour, in any currency.", show_default=False),
    ] = 0.0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the recipe."),
    ] = None,
    stages: Annotated[
        list[str] | None,
        typer.Option("--stage", help="Hold only this stage against the device; may be repeated."),
    ] = None,
    nodes: Annotated[int, typer.Option(min=0, help="Nodes; 0 takes the recipe's own number.")] = 0,
    here: Annotated[
        bool, typer.Option("--here", help="Measure this machine and hold the recipe against it.")
    ] = False,
    simulate: Annotated[
        bool,
        typer.Option("--simulate", help="Run a step of one of the ranks without weights or peers."),
    ] = False,
    devices: Annotated[
        Path | None,
        typer.Option(help="YAML file of devices, beside those that are known.", dir_okay=False),
    ] = None,
) -> None:
    """Show what each stage takes: parameters, memory part by part, hours and cost, the tokens of
    media. Nothing is trained.

    With --gpu or --here a step of each stage is run on tensors without contents, which takes some
    seconds a stage. A stage that does not fit ends it with exit code 2 and the smallest change that
    makes it fit.
    """
    from rich.console import Console

    from vita_train.planning.plan import gpu_bytes, plan_recipe
    from vita_train.recipe.aliases import stage_name

    memory = gpu_bytes(gpu) if gpu else 0
    resolved = on_ranks(recipe, settings or [], nodes, ranks)
    chosen = [stage_name(stage, resolved.stages) for stage in stages or []]
    chosen = chosen or list(resolved.stages)
    console = Console()
    if simulate:
        from vita_train.cli.run.plan_simulate import show_simulation

        show_simulation(resolved, chosen, gpu, devices, console)
        return
    ranks = resolved.launch.ranks
    _show(plan_recipe(resolved, ranks=ranks), ranks, memory, console)
    if here:
        from vita_train.cli.run.plan_fit import show_here

        show_here(resolved, chosen, price, console)
    elif gpu:
        _hold_against(resolved, chosen, gpu, devices, mfu, price, console)


def on_ranks(recipe: str, settings: list[str], nodes: int, ranks: int) -> Recipe:
    """Return a recipe on so many nodes, or processes in all where that is said.

    A step that has too few rows for its micro-batches there gets fewer of these, which changes what
    a step takes and not what it computes.
    """
    from vita_train.recipe.load import load_recipe

    resolved = load_recipe(recipe, settings)
    launch = resolved.launch
    if nodes:
        launch = launch.model_copy(update={"nodes": nodes})
    if ranks:
        each = launch.nproc if ranks % launch.nproc == 0 and not nodes else ranks
        of_node = -(-ranks // nodes) if nodes else each
        count = nodes or ranks // each
        launch = launch.model_copy(update={"nodes": count, "nproc": of_node})
    if launch == resolved.launch:
        return resolved
    stages = {}
    for name, spec in resolved.stages.items():
        most = max(1, spec.batch.global_batch_size // launch.ranks)
        batch = {"grad_accum": min(spec.batch.grad_accum, most)}
        stages[name] = spec.model_copy(update={"batch": spec.batch.model_copy(update=batch)})
    return resolved.model_copy(update={"launch": launch, "stages": stages})


def _hold_against(
    recipe: Recipe,
    stages: list[str],
    gpu: str,
    devices: Path | None,
    mfu: float,
    price: float,
    console: Console,
) -> None:
    from vita_train.cli.run.plan_fit import show_fit
    from vita_train.planning.devices import find_device, load_devices

    device = find_device(gpu, load_devices(devices))
    if device is None:
        console.print(
            f"\n{gpu} is not known: nothing but its memory can be told. --devices names a file "
            "that says how fast it is."
        )
        return
    if mfu:
        fractions = device.fractions.model_copy(update={"compute": mfu})
        device = device.model_copy(update={"fractions": fractions})
    show_fit(recipe, stages, gpu, device, price, console)


def _show(plan: Plan, ranks: int, memory: int, console: Console) -> None:
    from vita_train.planning.parameters import CTC_VOCAB_SIZE

    modules = table("module", "parameters")
    for name, count in plan.modules.items():
        modules.add_row(name, f"{count:,}")
    modules.add_row("together", f"{sum(plan.modules.values()):,}", style="bold")
    console.print(f"[bold]{plan.name}[/bold]", modules)
    if "ctc_head" in plan.modules:
        console.print(
            f"ctc_head is counted with {CTC_VOCAB_SIZE:,} units; transcripts decide the real "
            f"number.\n"
        )

    stages = table("stage", "what", "weights", "trained", "ZeRO 0", "1", "2", "3", "a rank's batch")
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

    media = table("media", "tokens")
    for name, count in plan.positions.items():
        media.add_row(name, f"{count:,}")
    console.print(media)


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
