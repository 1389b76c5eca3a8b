"""How much of the demo is luck: train it, or its first stages, over many draws of seed and of
rounding.

    python benchmarks/draws.py --until 0.llm --seeds 0 1 2 3 4 5 6 7 --rounding default avx2 avx512
    python benchmarks/draws.py --until 2.2 --seeds 0 1 2 3 4 5 6 7      # one rounding a seed, in
    turn
    python benchmarks/draws.py --table                                 # only write the tables anew

A draw is a seed and a value of ``ATEN_CPU_CAPABILITY``, which makes torch's own kernels round
otherwise, as they do on
another processor. Each finished draw is a line of ``benchmarks/results/draws.jsonl``, so that the
benchmark may be
stopped and started again. Draws of another ``GENERATION`` are kept and not counted. ``draws.md``
holds mean, worst and standard deviation of every gated measure and the steps that each stage took.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vita_train.recipe.graph import ancestors
from vita_train.recipe.load import load_recipe
from vita_train.recipe.schema import Recipe
from vita_train.recipe.selection import stage_graph
from vita_train.runs.final import read_final
from vita_train.storage.factory import open_store

RESULTS = Path(__file__).parent / "results"
ROUNDING = ("default", "avx2", "avx512")
#: To be raised with every change of what the demo trains: its data, its models, its recipe, the
#: computation.
GENERATION = 5


def roundings() -> tuple[str, ...]:
    """Values of ``ATEN_CPU_CAPABILITY`` that this processor can run: torch takes the variable at
    its word, and ends with SIGILL where the instructions are missing."""
    asked = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.backends.cpu.get_cpu_capability())"],
        env={name: value for name, value in os.environ.items() if name != "ATEN_CPU_CAPABILITY"},
        capture_output=True,
        text=True,
        check=True,
    )
    best = asked.stdout.strip().lower()
    return ROUNDING[: ROUNDING.index(best) + 1] if best in ROUNDING else ROUNDING[:1]


def draw(
    recipe: Recipe, until: str, seed: int, rounding: str, ranks: int, root: Path
) -> dict[str, Any]:
    """Train one draw and return its line. The data of a seed are made once."""
    run, began = f"seed-{seed}", time.monotonic()
    command = [
        sys.executable,
        "-m",
        "vita_train.cli.main",
        "run",
        recipe.name,
        "--run",
        run,
        "--set",
        f"seed={seed}",
        "--set",
        f"storage.root={root}",
        "--set",
        f"launch.nproc={ranks}",
        "--until",
        until,
    ]
    for stage in recipe.stages:
        shutil.rmtree(root / run / stage, ignore_errors=True)
    done = subprocess.run(
        command,
        env={**os.environ, "ATEN_CPU_CAPABILITY": rounding},
        text=True,
        capture_output=True,
        check=False,
    )
    stages: dict[str, Any] = {}
    for stage in recipe.stages:
        if manifest := read_final(open_store(str(root)), f"{run}/{stage}"):
            stages[stage] = {
                "steps": manifest.lineage["samples"]["steps"],
                "seconds": manifest.lineage.get("seconds"),
                "metrics": {name: manifest.metrics[name] for name in recipe.stages[stage].gates},
            }
    return {
        "generation": GENERATION,
        "until": until,
        "seed": seed,
        "rounding": rounding,
        "ranks": ranks,
        "passed": done.returncode == 0,
        "seconds": round(time.monotonic() - began),
        "message": "" if done.returncode == 0 else done.stderr.strip()[-500:],
        "stages": stages,
    }


def table(recipe: Recipe, lines: Sequence[dict[str, Any]]) -> str:
    """Return the figures of all draws of this recipe as markdown."""
    parts = ["# Draws of the tiny recipe\n", "Written by `python benchmarks/draws.py`.\n"]
    for until in dict.fromkeys(line["until"] for line in lines):
        counted = counted_for(recipe, lines, until)
        if not counted:
            continue
        passed = sum(until in line["stages"] for line in counted)
        parts.append(f"## Up to {until}: {passed} of {len(counted)} draws passed every gate\n")
        parts.append(_measures(recipe, counted))
        parts.append(_steps(counted))
        parts += [
            f"- seed {line['seed']}, {line['rounding']}: {line['message']}"
            for line in counted
            if until not in line["stages"]
        ]
    return "\n".join(parts) + "\n"


def counted_for(
    recipe: Recipe, lines: Iterable[dict[str, Any]], until: str
) -> list[dict[str, Any]]:
    """Return the draws of this generation that say how training up to a stage went, with the
    stages up to it alone: a draw that went further is one of each stage on its way."""
    graph = stage_graph(recipe)
    wanted = {until, *ancestors(graph, until)}
    return [
        {
            **line,
            "stages": {name: line["stages"][name] for name in line["stages"] if name in wanted},
        }
        for line in lines
        if line["generation"] == GENERATION
        and until in {line["until"], *ancestors(graph, line["until"])}
    ]


def _measures(recipe: Recipe, lines: Iterable[dict[str, Any]]) -> str:
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for line in lines:
        for stage, found in line["stages"].items():
            for name, value in found["metrics"].items():
                values[stage, name].append(value)
    rows = [
        "| stage | measure | gate | draws | mean | worst | standard deviation |",
        "| --- " * 7 + "|",
    ]
    for (stage, name), found in values.items():
        gate = recipe.stages[stage].gates[name]
        bound = f"at least {gate.min}" if gate.min is not None else f"at most {gate.max}"
        worst = min(found) if gate.min is not None else max(found)
        spread = statistics.stdev(found) if len(found) > 1 else 0.0
        rows.append(
            f"| {stage} | {name} | {bound} | {len(found)} | {statistics.mean(found):.4f} | "
            f"{worst:.4f} | "
            f"{spread:.4f} |"
        )
    return "\n".join(rows) + "\n"


def _steps(lines: Iterable[dict[str, Any]]) -> str:
    steps: dict[str, list[int]] = defaultdict(list)
    for line in lines:
        for stage, found in line["stages"].items():
            steps[stage].append(found["steps"])
    rows = ["| stage | fewest steps | mean | most |", "| --- " * 4 + "|"]
    rows += [
        f"| {stage} | {min(found)} | {statistics.mean(found):.0f} | {max(found)} |"
        for stage, found in steps.items()
    ]
    return "\n".join(rows) + "\n"


def main() -> int:
    """Train the draws that are missing and write the tables; 1 if one of them missed a gate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--until", default="0.llm", help="last stage to train")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(8)))
    parser.add_argument(
        "--rounding",
        nargs="+",
        default=[],
        help="values of ATEN_CPU_CAPABILITY, each with every seed; without, one a seed in turn",
    )
    parser.add_argument("--ranks", type=int, default=2, help="processes that train")
    parser.add_argument("--root", type=Path, default=Path("runs/draws"), help="where the runs go")
    parser.add_argument("--table", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    recipe, path = load_recipe(arguments.recipe), RESULTS / "draws.jsonl"
    known = roundings()
    if missing := sorted({*arguments.rounding} - {*known}):
        parser.error(f"this processor has no {', '.join(missing)}; it has {', '.join(known)}")
    wanted = [
        (seed, rounding)
        for seed in arguments.seeds
        for rounding in arguments.rounding or [known[seed % len(known)]]
    ]
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for number, (seed, rounding) in enumerate([] if arguments.table else wanted, 1):
        if any(
            (line["seed"], line["rounding"]) == (seed, rounding)
            for line in counted_for(recipe, lines, arguments.until)
        ):
            continue
        line = draw(recipe, arguments.until, seed, rounding, arguments.ranks, arguments.root)
        lines.append(line)
        with path.open("a") as results:
            results.write(json.dumps(line) + "\n")
        measures = {
            f"{stage} {name}": round(value, 4)
            for stage, found in line["stages"].items()
            for name, value in found["metrics"].items()
        }
        print(
            f"{number}/{len(wanted)} seed {seed} {rounding}: "
            f"{'passed' if line['passed'] else 'MISSED'} in "
            f"{line['seconds']} s {measures}",
            flush=True,
        )
    (RESULTS / "draws.md").write_text(table(recipe, lines))
    return 0 if all(line["passed"] for line in lines if line["generation"] == GENERATION) else 1


if __name__ == "__main__":
    sys.exit(main())
