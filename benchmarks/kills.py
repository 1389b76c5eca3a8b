"""Kill runs and spoil storage at random, and count how often the outcome is the undisturbed one.

    python benchmarks/kills.py kills --store local --ranks 2 --minutes 10
    python benchmarks/kills.py kills --store s3 --minutes 10 --blows 100
    python benchmarks/kills.py faults --minutes 2
    python benchmarks/kills.py table                            # only write the table anew

``kills`` runs every step of recipe `smoke` once undisturbed. Then it takes the steps in turn, those
with the fewest blows on record first: what a step left is removed, and it is done anew under blows
until it ends; weights, files, measures and the losses of all steps must be equal, to the bit, to
what the undisturbed step gave.
A blow comes at a random time and is one of

* kill: SIGKILL to all processes of the step at once, as when a machine dies;
* lose: SIGKILL to one process of it, chosen at random: a rank, a loader's worker, a decoder;
* hang: SIGSTOP to one process of it. What notices (another rank's watchdog) may end the step;
  else all is killed.

``faults`` saves and reads checkpoints on an S3 server that spoils requests (storage_faults.py).

Ranks are forked from a process that has imported what they need, so that a blow costs the step's
own time. Every trial is a line of ``benchmarks/results/kills.jsonl``, with the revision that was
tried, so the benchmark may be stopped and started again; ``kills.md`` counts.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import boto3
import yaml

from benchmarks.blows import PATIENCE, ended, kill_all, start, strike
from benchmarks.scratch import scratch, server_for
from benchmarks.storage_faults import KINDS, spoil_storage
from vita_train.errors import PeerLostError, VitaError
from vita_train.launch.backend import RECIPE, Outcome, StageJob
from vita_train.launch.outcome import explain, forget_outcomes
from vita_train.launch.process import run_rank
from vita_train.launch.rank import main as rank_main
from vita_train.pipeline import steps
from vita_train.pipeline.opening import open_run
from vita_train.preflight.step import preflight_step
from vita_train.recipe.backends import JobBackendSpec, register_job_backend
from vita_train.recipe.load import dump_recipe
from vita_train.recipe.selection import run_steps
from vita_train.runs.run import Run

RESULTS = Path(__file__).parent / "results"
WANTED = {"kills": 200, "faults": 200}
#: Blows that a step gets before it is let through.
MOST = 15
STEP_TIMEOUT = 20.0


class ForkedBackend:
    """A job's ranks as processes forked from this one."""

    def check(self, run: Run) -> str:
        """Say where jobs go."""
        return "forked processes"

    def run(self, job: StageJob) -> Outcome:
        """Run the ranks to their end; the first that fails ends the others."""
        logs = job.run.logs_dir(job.stage)
        logs.mkdir(parents=True, exist_ok=True)
        forget_outcomes(logs)
        recipe = job.run.dir / job.stage / RECIPE
        recipe.write_text(dump_recipe(job.run.recipe), encoding="utf-8")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        size, ranks = job.resources.nproc, set()
        for rank in range(size):
            child = os.fork()
            if child == 0:
                names = {
                    "RANK": rank,
                    "LOCAL_RANK": rank,
                    "WORLD_SIZE": size,
                    "LOCAL_WORLD_SIZE": size,
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": port,
                }
                os.environ.update({name: str(value) for name, value in names.items()})
                sys.argv = ["rank", str(logs), str(recipe), job.stage, job.run.name]
                run_rank(rank_main)
            ranks.add(child)
        failure: VitaError | None = None
        while ranks:
            child, status = os.wait()
            ranks.discard(child)
            if status and failure is None:
                failure = (
                    PeerLostError(
                        "a process of the job was killed", where=str(logs), remedy="run it again"
                    )
                    if os.WIFSIGNALED(status)
                    else explain(logs, "")
                )
                for other in ranks:
                    os.kill(other, signal.SIGKILL)
        return Outcome(failure, logs=str(logs))


class World:
    """A run whose steps can be done again, and what they gave undisturbed."""

    def __init__(self, folder: Path, root: str, endpoint: str, ranks: int) -> None:
        """Write the recipe of the run: `smoke`, smaller, with a checkpoint after every step."""
        recipe = yaml.safe_load((files("vita_train.recipe") / "presets" / "smoke.yaml").read_text())
        recipe["data"]["source"]["world"] |= {"scale": 0.005, "test_size": 2}
        recipe["launch"] |= {"backend": "forked", "nproc": ranks, "step_timeout": STEP_TIMEOUT}
        recipe["storage"] = {"root": root, **({"endpoint": endpoint} if endpoint else {})}
        for stage in recipe["stages"].values():
            stage |= {"checkpoint_interval": 1, "steps": 4}
        self._recipe = folder / "kills.yaml"
        self._recipe.write_text(yaml.safe_dump(recipe, sort_keys=False))
        self.run = self.open()
        self.expected: dict[str, dict[str, Any]] = {}
        self.seconds: dict[str, float] = {}

    def open(self) -> Run:
        """Open the run, as a process of its own would."""
        return open_run(str(self._recipe), "r")[0]

    def do(self, step: str) -> None:
        """Do a step in this process."""
        run = self.open()
        if step in run.recipe.stages:
            steps.train_step(run, step)
        else:
            {
                "data_fetch": steps.fetch_step,
                "prepare": steps.prepare_step,
                "preflight": preflight_step,
                "evaluate": steps.evaluate_step,
                "export": steps.export_step,
                "report": steps.report_step,
            }[step](run)

    def remove(self, step: str) -> None:
        """Remove all that a step has left but final weights, which later stages name."""
        store, kept = self.run.store, self.run.key(step, "final") + "/"
        store.delete([key for key in store.list(self.run.key(step) + "/") if kept not in key])
        for left in sorted((self.run.dir / step).glob("*")):
            if left.is_dir() and left.name != "final":
                shutil.rmtree(left, ignore_errors=True)
            elif not left.is_dir():
                left.unlink()

    def outcome(self, step: str) -> dict[str, Any] | None:
        """Return what a step gave, equal in two runs; None if it has no commit."""
        manifest = self.open().final(step)
        if manifest is None:
            return None
        shown = {name: ref.sha256 for name, ref in manifest.files.items() if step != "report"}
        events = self.run.dir / step / "events.jsonl"
        losses: dict[int, float] = {}
        for line in events.read_text().splitlines() if events.exists() else ():
            event = json.loads(line)
            losses |= {event["step"]: event["loss"]} if "loss" in event else {}
        weights = {
            name: [ref.sha256 for ref in module.files] for name, module in manifest.modules.items()
        }
        return {"weights": weights, "files": shown, "metrics": manifest.metrics, "losses": losses}


def try_step(world: World, step: str, log: Path) -> dict[str, Any]:
    """Do a step anew under blows until it ends, and say what came of it."""
    world.remove(step)
    blows: Counter[str] = Counter()
    began, faults = time.monotonic(), []
    while sum(blows.values()) < MOST:
        child = start(lambda: world.do(step), log)
        # A step that was taken up has less left to do, so that blows reach the end of it too.
        most = random.choice((0.15, 0.3, 0.6)) * world.seconds[step]
        if (status := ended(child, random.uniform(0.0, most))) is not None:
            faults += [f"ended by itself with {status}"] if status else []
            break
        blow = random.choices(("kill", "lose", "hang"), weights=(6, 3, 1))[0]
        strike(child, blow, 2 * STEP_TIMEOUT if world.run.recipe.launch.nproc > 1 else 1.0)
        blows[blow] += 1
        if (found := world.outcome(step)) not in (None, world.expected[step]):
            faults.append(
                f"after a blow, a commit that differs: {difference(found, world.expected[step])}"
            )
    child = start(lambda: world.do(step), log)
    if (status := ended(child, PATIENCE)) != 0:
        kill_all(child, [])
        faults.append(f"the last start ended with {status}")
    found = world.outcome(step)
    if found != world.expected[step]:
        faults.append(f"differs: {difference(found, world.expected[step])}")
    return {
        "step": step,
        "blows": dict(blows),
        "equal": not faults,
        "faults": faults,
        "seconds": round(time.monotonic() - began, 1),
    }


def difference(found: dict[str, Any] | None, expected: dict[str, Any]) -> str:
    """Say in which parts two outcomes differ."""
    if found is None:
        return "no commit"
    return ", ".join(
        f"{part}.{name}"
        for part in expected
        for name in {**expected[part], **found[part]}
        if expected[part].get(name) != found[part].get(name)
    )


def kill_runs(
    store: str,
    ranks: int,
    minutes: float,
    only: list[str],
    most: float,
    record: list[dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    """Try steps until the time is over or so many blows are on record for this store and number of
    ranks."""
    import vita_train.evaluation.run
    import vita_train.report.render
    import vita_train.training.stage
    import vita_train.weights.export  # noqa: F401 - what forked processes need not import again

    with scratch() as folder, server_for(store, folder) as endpoint:
        os.environ["VITA_TRAIN_CACHE"] = str(folder / "cache")
        bucket = f"kills-{uuid.uuid4().hex[:8]}"
        if endpoint:
            boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(
                Bucket=bucket
            )
        world = World(
            folder, f"s3://{bucket}/runs" if endpoint else str(folder / "runs"), endpoint, ranks
        )
        log, order = folder / "log.txt", run_steps(world.run.recipe)
        asked = only or order
        for step in order[: 1 + max(map(order.index, asked))]:
            began = time.monotonic()
            if ended(start(lambda step=step: world.do(step), log), PATIENCE) != 0:
                raise SystemExit(f"error: {step} fails undisturbed:\n{log.read_text()[-3000:]}")
            world.seconds[step] = time.monotonic() - began
            world.expected[step] = world.outcome(step) or {}
            print(f"{step}: {world.seconds[step]:.1f} s undisturbed", flush=True)
        deadline = time.monotonic() + 60 * minutes
        fallen: Counter[str] = Counter(dict.fromkeys(asked, 0))
        for line in record:
            if line["kind"] == "kills" and (line["store"], line["ranks"]) == (store, ranks):
                fallen[line["step"]] += sum(line["blows"].values())
        while time.monotonic() < deadline and fallen.total() < most:
            step = min(asked, key=lambda step: (fallen[step], random.random()))
            log.unlink(missing_ok=True)
            done = try_step(world, step, log)
            # A step too short to be met counts too, so that the others have their turn.
            fallen[step] += max(1, sum(done["blows"].values()))
            if not done["equal"]:
                print(log.read_text()[-3000:], file=sys.stderr, flush=True)
            yield {"kind": "kills", "store": store, "ranks": ranks, **done}


def table(lines: list[dict[str, Any]]) -> str:
    """Return the counts as Markdown."""
    text = [
        "# Kills and storage faults",
        "",
        "Written by `benchmarks/kills.py`, which says what is done. Every trial is a line of "
        "`kills.jsonl`.",
        "",
        "| step | store, ranks | trials | kill | lose | hang | equal to the undisturbed run |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    kills, faults = (
        [line for line in lines if line["kind"] == kind] for kind in ("kills", "faults")
    )
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for line in kills:
        groups[line["step"], f"{line['store']}, {line['ranks']}"].append(line)
    blows = sum((Counter(line["blows"]) for line in kills), Counter())
    for (step, where), group in sorted(groups.items()):
        counts = sum((Counter(line["blows"]) for line in group), Counter())
        text.append(
            f"| {step} | {where} | {len(group)} | {counts['kill']} | "
            f"{counts['lose']} | {counts['hang']} | "
            f"{sum(line['equal'] for line in group)} of {len(group)} |"
        )
    text += [
        "",
        f"**{blows.total()} blows of {WANTED['kills']} wanted**, {blows['kill']} kill, "
        f"{blows['lose']} lose, "
        f"{blows['hang']} hang; {sum(line['equal'] for line in kills)} of {len(kills)} steps "
        "equal.",
        "",
        "| fault | trials | met | error told | whole or absent, and true |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for kind in KINDS:
        group = [line for line in faults if line["fault"] == kind]
        text.append(
            f"| {kind} | {len(group)} | {sum(line['spoilt'] > 0 for line in group)} | "
            f"{sum(line['told'] for line in group)} | {sum(line['equal'] for line in group)} |"
        )
    met = [line for line in faults if line["spoilt"]]
    text += [
        "",
        f"**{len(met)} trials of {WANTED['faults']} wanted met their fault**, "
        f"{sum(line['spoilt'] for line in met)} requests spoilt; "
        f"{sum(line['equal'] for line in met)} of "
        f"{len(met)} right.",
        "",
    ]
    revisions = sorted({line["revision"] for line in lines})
    text += [f"Revisions: {', '.join(revisions)}.", ""] if revisions else []
    wrong = [line for line in lines if not line["equal"]]
    text += ["## What was not right", ""] if wrong else []
    text += [
        f"- {line.get('step') or ', '.join(line[key] for key in ('fault', 'match', 'work'))}: "
        f"{'; '.join(line['faults'])}"
        for line in wrong
    ]
    return "\n".join(text).rstrip() + "\n"


def main() -> None:
    """Do what the command line asks for and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("kills", "faults", "table"))
    parser.add_argument("--store", choices=("local", "s3"), default="local")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="of trials, the undisturbed run aside"
    )
    parser.add_argument(
        "--blows", type=float, default=float("inf"), help="on record, at which to end"
    )
    parser.add_argument("--only", nargs="*", default=[], metavar="STEP")
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args()
    register_job_backend(JobBackendSpec("forked", f"{__name__}:ForkedBackend", here=True))
    path = asked.results / "kills.jsonl"
    record = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    revision = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=RESULTS,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    trials = {
        "kills": lambda: kill_runs(
            asked.store, asked.ranks, asked.minutes, asked.only, asked.blows, record
        ),
        "faults": lambda: spoil_storage(asked.minutes),
        "table": lambda: (),
    }[asked.what]()
    for trial in trials:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**trial, "revision": revision}) + "\n")
        print(json.dumps(trial), flush=True)
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    (asked.results / "kills.md").write_text(table(lines))


if __name__ == "__main__":
    main()
