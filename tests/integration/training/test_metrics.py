"""A real stage on two ranks, asked for its metrics over HTTP while it trains."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.scrape import scrape
from vita_train.launch.stage import launch_stage
from vita_train.pipeline import steps
from vita_train.recipe.load import load_recipe
from vita_train.recipe.schema import Recipe
from vita_train.runs.manifest import Manifest
from vita_train.runs.run import Run
from vita_train.training.observability import metrics

# Two ranks on a machine that does other work too may take minutes.
pytestmark = pytest.mark.timeout(1200)

RUN, STAGE, OTHER_STAGE = "r", "0.llm", "0.vision"
PEAK_TFLOPS = 0.01


def _recipe(root: Path, *changes: str) -> Recipe:
    return load_recipe(
        "smoke",
        [
            f"storage.root={root}",
            "data.source.world.scale=0.005",
            "data.source.world.test_size=2",
            "launch.nproc=2",
            *changes,
        ],
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage root with prepared data."""
    root = tmp_path_factory.mktemp("runs")
    steps.fetch_step(Run(_recipe(root), RUN))
    steps.prepare_step(Run(_recipe(root), RUN))
    return root


def _two_free_ports() -> int:
    while True:
        with socket.create_server(("0.0.0.0", 0)) as one:
            port = int(one.getsockname()[1])
            try:
                socket.create_server(("0.0.0.0", port + 1)).close()
            except (OSError, OverflowError):
                continue
        return port


def _scrape(port: int) -> dict[str, tuple[dict[str, str], float]] | None:
    try:
        return scrape(port)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None


class Watcher:
    """Scrapes two ranks in a thread and keeps what they say."""

    def __init__(self, port: int) -> None:
        self.seen: list[list[dict[str, tuple[dict[str, str], float]]]] = [[], []]
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, args=(port,))

    def _watch(self, port: int) -> None:
        while not self.over.is_set():
            for rank in (0, 1):
                if found := _scrape(port + rank):
                    self.seen[rank].append(found)
            time.sleep(0.05)


@contextmanager
def _watching(port: int) -> Iterator[Watcher]:
    watcher = Watcher(port)
    watcher.thread.start()
    try:
        yield watcher
    finally:
        watcher.over.set()
        watcher.thread.join()


def _events(root: Path) -> dict[int, dict[str, Any]]:
    lines = (root / RUN / STAGE / "events.jsonl").read_text().splitlines()
    return {row["step"]: row for row in map(json.loads, lines) if "loss" in row}


def _near(value: float, wanted: list[float]) -> bool:
    return any(value == pytest.approx(one, rel=1e-6) for one in wanted)


def test_scrapes_of_both_ranks_agree_with_the_journal(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = _two_free_ports()
    monkeypatch.setenv(metrics.PORT, str(port))
    monkeypatch.setenv(metrics.PEAK, str(PEAK_TFLOPS))
    recipe = _recipe(root, f"stages.{STAGE}.steps=40", f"stages.{STAGE}.checkpoint_interval=10")
    with _watching(port) as watcher:
        manifest = launch_stage(Run(recipe, RUN), STAGE, "0" * 64)
    events = _events(root)
    assert sorted(events) == list(range(1, 41))
    for rank, seen in enumerate(watcher.seen):
        trained = [found for found in seen if metrics.LOSS in found]
        assert trained, f"rank {rank} was never scraped while it trained"
        for found in trained:
            _compare(found, rank, events, manifest)
        steps_seen = [found[metrics.STEP][1] for found in seen]
        assert steps_seen == sorted(steps_seen)
    ages = [found[metrics.COMMIT_AGE][1] for found in watcher.seen[0]]
    assert any(after < before for before, after in pairwise(ages)), "no commit made the age fall"
    assert all(metrics.COMMIT_AGE not in found for found in watcher.seen[1])
    assert _scrape(port) is None


def _compare(
    found: dict[str, tuple[dict[str, str], float]],
    rank: int,
    events: dict[int, dict[str, Any]],
    manifest: Manifest,
) -> None:
    """Compare one scrape with the journal; the step is told a moment before the rest of it."""
    values = {name: value for name, (_, value) in found.items()}
    step = int(values[metrics.STEP])
    rows = [events[one] for one in (step - 1, step) if one in events]
    assert found[metrics.STEP][0] == {"run": RUN, "stage": STAGE, "rank": str(rank)}
    assert values[metrics.RANKS] == 2
    assert values[metrics.STEPS] == 40
    assert _near(values[metrics.LOSS], [row["loss"] for row in rows])
    assert found[metrics.INFO][0]["objective"] == "next_token"
    # All children of this stage train: 6 FLOP a parameter and token, on two devices.
    full = 2 * PEAK_TFLOPS * 1e12 / (6 * manifest.lineage["trained"]["llm"])
    assert values[metrics.MFU] == pytest.approx(values[metrics.TOKENS_PER_S] / full)
    assert 0 <= values[metrics.DATA_WAIT] <= 1
    assert values[metrics.DATA_WAIT_S] > 0
    if rank == 0:  # the journal is rank 0's; the others keep their own clocks
        assert _near(values[metrics.TOKENS_PER_S], [row["tokens_per_s"] for row in rows])
        assert _near(values[metrics.DATA_WAIT], [row["data_wait"] for row in rows])
        for row in rows:
            shares = [rate for name, rate in row.items() if name.startswith("samples_per_s.")]
            assert sum(shares) == pytest.approx(row["samples_per_s"], rel=1e-3)
        assert _near(values[metrics.MEMORY], [row["memory_gib"] * 2**30 for row in rows])


def test_a_port_in_use_is_told_in_one_line_and_training_ends_well(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("0.0.0.0", 0)) as other:
        port = int(other.getsockname()[1])
        monkeypatch.setenv(metrics.PORT, str(port - 1))  # rank 1 finds its port taken
        manifest = launch_stage(Run(_recipe(root), RUN), OTHER_STAGE, "0" * 64)
    assert manifest.lineage["world"] == 2
    log = (root / RUN / OTHER_STAGE / "logs" / "rank-1.log").read_text()
    [line] = [line for line in log.splitlines() if "metrics" in line]
    assert f"on port {port}: Address already in use" in line
    assert "Traceback" not in log
