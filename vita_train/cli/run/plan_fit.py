"""The part of ``vita-train plan`` that holds stages against devices: memory part by part, time,
cost, and what to change."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from vita_train.cli.run.tables import table
from vita_train.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from vita_train.planning.devices import Device
    from vita_train.planning.estimate import Estimate
    from vita_train.recipe.schema import Recipe


def show_here(recipe: Recipe, stages: list[str], price: float, console: Console) -> None:
    """Hold stages against this machine.

    Raises:
        UserError: the recipe wants more devices than there are, or a stage does not fit.
    """
    from vita_train.planning.here import this_machine

    here = this_machine(Path(recipe.storage.root if "://" not in recipe.storage.root else "."))
    wanted = recipe.launch.nproc
    single = recipe.model_copy(update={"launch": recipe.launch.model_copy(update={"nodes": 1})})
    console.print(
        f"[bold]this machine[/bold]: {here.count} x {here.name}, {here.device.memory:,.1f} GB "
        f"free, {here.device.float32:,.2f} TFLOP/s in float32 and {here.device.bfloat16 or 0:,.2f} "
        f"in bfloat16, {here.device.bandwidth:,.0f} GB/s, measured just now; "
        f"{here.node_memory / 1e9:,.1f} GB of memory, {here.disk / 1e9:,.0f} GB of disk\n"
    )
    device = here.device
    if device.caches and wanted > here.count:
        raise UserError(
            f"the recipe starts {wanted} processes and there are {here.count} GPUs",
            code="VT-USE-302",
            where="launch.nproc",
            remedy=f"--set launch.nproc={here.count}",
        )
    if not device.caches:  # processes share what there is
        share = 1 / wanted
        device = device.model_copy(
            update={
                name: value * share
                for name in ("memory", "bandwidth", "float32", "bfloat16")
                if (value := getattr(device, name))
            }
        )
    node_memory = here.node_memory if device.caches else 0
    show_fit(single, stages, here.name, device, price, console, node_memory, here.disk)


def show_fit(
    recipe: Recipe,
    stages: list[str],
    name: str,
    device: Device,
    price: float,
    console: Console,
    node_memory: int = 0,
    disk: int = 0,
) -> None:
    """Print what each stage takes of a device, of a node and of the store, and how long.

    Raises:
        UserError: a stage does not fit; with the smallest change that makes it fit.
    """
    from vita_train.planning.estimate import estimate_stages
    from vita_train.planning.fit import shortage

    ranks = recipe.launch.ranks
    with console.status("tracing stages"):
        found = estimate_stages(recipe, stages, device)
    _show_memory(found, device, f"{ranks} x {name}", console)
    _show_time(found, ranks, price, device, console)
    if unknown := [stage for stage in stages if stage not in found]:
        console.print(f"not traced: {', '.join(unknown)}, whose objective names no largest batch")
    problems, remedies = [], []
    for stage in found:
        batch = recipe.stages[stage].batch
        if batch.global_batch_size < ranks * batch.grad_accum:
            problems.append(
                f"stage {stage} has {batch.global_batch_size} rows in a step, too few for "
                f"{batch.grad_accum} micro-batches on each of {ranks} ranks"
            )
            remedies.append(f"raise stages.{stage}.batch.global_batch_size, or take fewer ranks")
    for estimate in found.values():
        if lacking := shortage(recipe, estimate, device, node_memory):
            problems.append(lacking.problem)
            remedies.append(lacking.remedy)
    storage = sum(estimate.host.storage for estimate in found.values())
    if disk and storage > disk:
        problems.append(f"the store needs {storage / 1e9:,.1f} GB and {disk / 1e9:,.1f} are free")
        remedies.append("set storage.root to a larger disk, or lower storage.keep_last")
    if problems:
        raise UserError(
            "; ".join(problems),
            code="VT-USE-303",
            where=f"{ranks} x {name}",
            remedy="; ".join(remedies),
        )


def _show_memory(found: dict[str, Estimate], device: Device, where: str, console: Console) -> None:
    from vita_train.planning.estimate import Memory
    from vita_train.planning.fit import lacks

    memory = table("part", *found)
    for part in (field.name for field in fields(Memory)):
        sizes = [vars(estimate.memory)[part] for estimate in found.values()]
        if any(sizes):
            memory.add_row(part, *map(_gigabytes, sizes))
    totals = []
    for estimate in found.values():
        total = _gigabytes(estimate.memory.total)
        totals.append(f"[red]{total}[/red]" if lacks(estimate, device) else total)
    memory.add_row("together", *totals, style="bold")
    hosts = [estimate.host for estimate in found.values()]
    memory.add_row("each node", *(_gigabytes(host.memory) for host in hosts))
    memory.add_row("/dev/shm", *(_gigabytes(host.shared) for host in hosts))
    memory.add_row("the store", *(_gigabytes(host.storage) for host in hosts))
    console.print(
        f"\n[bold]memory of each of {where}[/bold] at full micro-batches, GB "
        f"({_gigabytes(device.usable)} may be taken)",
        memory,
    )


def _show_time(
    found: dict[str, Estimate], ranks: int, price: float, device: Device, console: Console
) -> None:
    time = table("stage", "step s", "exchange s", "tokens/s", "hours", *(["cost"] if price else []))
    for stage, estimate in found.items():
        hours = estimate.hours
        rate = f"{estimate.tokens / estimate.seconds:,.0f}" if estimate.tokens else "-"
        whole = "" if estimate.steps else " a billion tokens"
        cost = [f"{hours * ranks * price:,.2f}" if hours else "-"] if price else []
        time.add_row(
            stage,
            f"{estimate.step_s:,.3g}",
            f"{estimate.exchange_s:,.2g}",
            rate,
            f"{hours:,.2f}{whole}" if hours else "-",
            *cost,
        )
    shares = device.fractions
    known = (
        "rates measured here"
        if device.measured
        else f"assuming {shares.compute:.0%} of the peak in products, {shares.bandwidth:.0%} of "
        f"the memory's and {shares.links:.0%} of the links' rate"
    )
    console.print(f"[bold]time[/bold], {known}; rows full", time)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f}" if size >= 1e9 else f"{size / 1e9:,.3f}"
