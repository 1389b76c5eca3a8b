"""The part of ``vita-train plan`` that runs a step of one rank among many."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vita_train.cli.run.tables import table

if TYPE_CHECKING:
    from rich.console import Console

    from vita_train.recipe.schema import Recipe


def show_simulation(
    recipe: Recipe, stages: list[str], gpu: str, devices: Path | None, console: Console
) -> None:
    """Print what a rank exchanges in a step of each stage, what it holds, and how long that takes.

    Raises:
        RecipeError: the GPU's name does not end in a number, or the file of devices is wrong.
    """
    from vita_train.planning.devices import find_device, load_devices
    from vita_train.planning.simulate import simulate_stage

    device = find_device(gpu, load_devices(devices)) if gpu else None
    launch = recipe.launch
    shown = table("stage", "what", "ranks", "calls", "GB sent", "s")
    totals = table("stage", "memory GB", "computing s", "exchange s", "step s", "tokens/s")
    with console.status("running a step"):
        for stage in stages:
            found = simulate_stage(recipe, stage, device)
            if found is None:
                continue
            for call, traffic in sorted(found.traffic.items(), key=lambda item: -item[1].sent):
                where = "between nodes" if call.between_nodes else "within a node"
                seconds = "-"
                if device:
                    rate = device.link(between_nodes=call.between_nodes)
                    seconds = f"{traffic.sent / rate:,.3g}"
                shown.add_row(
                    stage,
                    f"{call.name} {where}",
                    f"{call.ranks}",
                    f"{traffic.calls:,}",
                    f"{traffic.sent / 1e9:,.4g}",
                    seconds,
                )
            batch = recipe.stages[stage].batch
            tokens = batch.global_batch_size * batch.seq_len
            timed = device is not None and found.step_s > 0
            totals.add_row(
                stage,
                f"{found.memory / 1e9:,.2f}",
                *(
                    f"{value:,.3g}" if timed else "-"
                    for value in (found.compute_s, found.exchange_s, found.step_s)
                ),
                f"{tokens / found.step_s:,.0f}" if timed else "-",
            )
    console.print(
        f"[bold]a step of one of {launch.ranks} ranks[/bold] on {launch.nodes} x {launch.nproc}"
        f"{f' {gpu}' if gpu else ''}",
        shown,
        totals,
    )
