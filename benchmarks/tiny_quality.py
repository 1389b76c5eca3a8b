"""Held-out quality of the tiny recipe against its targets, for every seed.

    python benchmarks/tiny_quality.py runs/tiny-0 runs/tiny-1 runs/tiny-2    # collect finished runs
    python benchmarks/tiny_quality.py --train                                # train seeds 0, 1, 2
    first, then collect

Writes ``benchmarks/results/tiny_quality.json`` and ``.md``. Every number is read from the runs' own
manifests: the
final evaluation for the newest weights, the stages' manifests for forgetting. Ends with 1 if a
target is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vita_train.errors import UserError
from vita_train.evaluation.forgetting import forgetting_table
from vita_train.recipe.load import load_recipe
from vita_train.runs.final import read_final
from vita_train.runs.manifest import Manifest
from vita_train.storage.factory import open_store

RESULTS = Path(__file__).parent / "results"
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Run:
    """What a finished run measured."""

    name: str
    seed: int
    final: Mapping[str, float]
    stages: Mapping[str, Mapping[str, float]]
    seconds: float

    def __getitem__(self, measure: str) -> float:
        return self.final.get(measure, float("nan"))


@dataclass(frozen=True)
class Target:
    """A figure to reach: at least ``low``, or at most ``high``."""

    title: str
    value: Callable[[Run], float]
    low: float | None = None
    high: float | None = None
    unit: str = "%"

    def met(self, value: float) -> bool:
        """Whether a value reaches the figure. What was not measured does not."""
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    @property
    def bound(self) -> str:
        """The figure in words."""
        unit = f" {self.unit}" if self.unit else ""
        return (
            f"at least {self.low:g}{unit}"
            if self.low is not None
            else f"at most {self.high:g}{unit}"
        )


def share(measure: str) -> Callable[[Run], float]:
    """Return the reader of a share, in per cent."""
    return lambda run: 100 * run[measure]


def worst_mark(run: Run) -> float:
    """Return the lowest share of right state marks over all slices with audio, negative audio
    included."""
    marks = [run["speech_qa.test.state_mark"], run["negative.test.state_mark"]]
    return float("nan") if any(math.isnan(mark) for mark in marks) else 100 * min(marks)


def largest_fall(run: Run) -> float:
    """Return the points by which any measure fell after a later stage; the final evaluation counts
    as the last."""
    fall = forgetting_table({**run.stages, "evaluate": run.final}).largest_fall()
    return fall.points if fall else 0.0


TARGETS: tuple[Target, ...] = (
    Target("typed questions about text", share("textqa.test.accuracy"), low=80),
    Target("questions about images, seen combinations", share("vqa.test_seen.accuracy"), low=75),
    Target(
        "questions about images, held-out combinations", share("vqa.test_unseen.accuracy"), low=55
    ),
    Target("captions name the right attributes", share("caption.test_seen.attributes"), low=80),
    Target(
        "recogniser's word error, new sentences (after 2.1a)",
        lambda run: 100 * run.stages["2.1a"].get("asr.test_sentences.wer", float("nan")),
        high=5,
    ),
    Target(
        "recogniser's word error, new voices (after 2.1a)",
        lambda run: 100 * run.stages["2.1a"].get("asr.test_voices.wer", float("nan")),
        high=10,
    ),
    Target(
        "spoken questions below the same typed",
        lambda run: 100 * (run["speech_qa.test_typed.accuracy"] - run["speech_qa.test.accuracy"]),
        high=10,
        unit="points",
    ),
    Target("state mark right, the worse of spoken and negative", worst_mark, low=95),
    Target("largest fall of any measure after a later stage", largest_fall, high=3, unit="points"),
    Target(
        "codec: word error above the original's",
        lambda run: 100 * (run["tts.test.wer_resynthesis"] - run["tts.test.wer_original"]),
        high=3,
        unit="points",
    ),
    Target("codec: codes in use", lambda run: run["tts.test.codes_used"], low=300, unit=""),
    Target("word error of spoken answers", share("speech.test.wer"), high=30),
)


def read_run(directory: Path) -> Run:
    """Read a finished run.

    Raises:
        UserError: it has no final evaluation or a stage is missing.
    """
    store = open_store(str(directory))
    recipe = load_recipe(str(directory / "recipe.yaml"))
    manifests: dict[str, Manifest] = {}
    for step in (*recipe.stages, "evaluate"):
        manifest = read_final(store, step)
        if manifest is None:
            raise UserError(
                f"step {step} is not done", where=str(directory), remedy="finish the run first"
            )
        manifests[step] = manifest
    final = manifests.pop("evaluate")
    seconds = sum(float(manifest.lineage.get("seconds", 0.0)) for manifest in manifests.values())
    return Run(
        directory.name,
        recipe.seed,
        final.metrics,
        {name: m.metrics for name, m in manifests.items()},
        seconds,
    )


def table(runs: list[Run]) -> str:
    """Return the figures as a markdown table; a missed one is marked."""
    head = ["figure", "wanted", *(f"seed {run.seed}" for run in runs)]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for target in TARGETS:
        values = [target.value(run) for run in runs]
        cells = [
            f"{value:.1f}" if target.met(value) else f"**{value:.1f}, missed**" for value in values
        ]
        lines.append(" | ".join([target.title, target.bound, *cells]))
    lines.append(
        " | ".join(["training, all stages", "", *(f"{run.seconds / 60:.1f} min" for run in runs)])
    )
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def train(root: Path) -> list[Path]:
    """Run the tiny recipe for every seed and return the run directories."""
    directories = []
    for seed in SEEDS:
        name = f"tiny-{seed}"
        subprocess.run(
            [
                sys.executable,
                "-m",
                "vita_train.cli.main",
                "run",
                "tiny",
                "--run",
                name,
                "--set",
                f"seed={seed}",
                "--set",
                f"storage.root={root}",
            ],
            check=True,
        )
        directories.append(root / name)
    return directories


def main() -> int:
    """Collect runs and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, help="finished run directories")
    parser.add_argument("--train", action="store_true", help="train seeds 0, 1, 2 first")
    parser.add_argument(
        "--root", type=Path, default=Path("runs"), help="where --train puts its runs"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="directory of the results")
    arguments = parser.parse_args()
    directories = [*arguments.runs, *(train(arguments.root) if arguments.train else [])]
    if not directories:
        parser.error("give run directories, or --train")
    try:
        runs = sorted((read_run(path) for path in directories), key=lambda run: run.seed)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    rows = [
        {
            "figure": target.title,
            "wanted": target.bound,
            "values": {str(run.seed): target.value(run) for run in runs},
            "met": all(target.met(target.value(run)) for run in runs),
        }
        for target in TARGETS
    ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    command = "python benchmarks/tiny_quality.py " + " ".join(run.name for run in runs)
    (arguments.out / "tiny_quality.json").write_text(
        json.dumps(
            {
                "command": command,
                "runs": {
                    run.name: {
                        "seed": run.seed,
                        "seconds": run.seconds,
                        "final": dict(sorted(run.final.items())),
                    }
                    for run in runs
                },
                "figures": rows,
            },
            indent=1,
        )
        + "\n"
    )
    text = table(runs)
    (arguments.out / "tiny_quality.md").write_text(
        f"# Held-out quality of the tiny recipe\n\n`{command}`\n\n{text}"
    )
    print(text)
    return 0 if all(row["met"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
