"""Metrics of a rank over HTTP: the names, the switch, and ports that cannot be had."""

from __future__ import annotations

import json
import math
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
import yaml

from tests.helpers.scrape import scrape
from vita_train.training.objectives.next_token import NextTokenObjective
from vita_train.training.observability import metrics
from vita_train.training.observability.exporter import SnapshotCollector, served
from vita_train.training.observability.telemetry import MetricsSnapshot, full_speed, peak_flops

CHART = Path(__file__).resolve().parents[4] / "charts" / "vita-training"
LABELS = {"run": "r", "stage": "1.2", "rank": "0"}
INFO = {"version": "1", "objective": "next_token", "engine": "torch", "device": "cpu"}


def _collector(snapshot: MetricsSnapshot, **settings: Any) -> SnapshotCollector:
    committed = time.monotonic() - 60
    return SnapshotCollector(
        snapshot,
        LABELS,
        INFO,
        **{"ranks": 2, "full_speed": 1000.0, "committed_at": lambda: committed, **settings},
    )


def _readings() -> MetricsSnapshot:
    snapshot = MetricsSnapshot(step=3, steps=10, data_wait_s=1.5)
    snapshot.log(2.5, {"tokens_per_s": 400.0, "samples_per_s": 1.0, "data_wait": 0.25}, 2.0)
    return snapshot


def _listening() -> set[int]:
    return {
        one.laddr.port
        for one in psutil.Process().net_connections("tcp")
        if one.status == psutil.CONN_LISTEN
    }


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("0.0.0.0", 0)) as server:
        yield server.getsockname()[1]


def _free() -> int:
    with socket.create_server(("0.0.0.0", 0)) as server:
        return int(server.getsockname()[1])


def test_every_metric_is_exported_with_its_labels_under_its_name() -> None:
    port = _free()
    with served(_collector(_readings()), 1, {metrics.PORT: str(port - 1)}):
        found = scrape(port)
    assert set(found) == set(metrics.HELP)
    values = {name: value for name, (_, value) in found.items()}
    assert 60 <= values.pop(metrics.COMMIT_AGE) < 90
    assert values == {
        metrics.INFO: 1,
        metrics.RANKS: 2,
        metrics.STEP: 3,
        metrics.STEPS: 10,
        metrics.LOSS: 2.5,
        metrics.TOKENS_PER_S: 400,
        metrics.MFU: 0.4,
        metrics.DATA_WAIT: 0.25,
        metrics.DATA_WAIT_S: 1.5,
        metrics.MEMORY: 2 * 2**30,
    }
    assert found.pop(metrics.INFO)[0] == {**LABELS, **INFO}
    assert all(labels == LABELS for labels, _ in found.values())
    assert set(LABELS) == set(metrics.LABELS)
    assert set(INFO) == set(metrics.INFO_LABELS)
    assert port not in _listening()


def test_what_is_not_known_is_absent_and_a_loss_that_is_no_number_is_told() -> None:
    snapshot = MetricsSnapshot(steps=10)
    port = _free()
    with served(
        _collector(snapshot, full_speed=None, committed_at=None), 0, {metrics.PORT: str(port)}
    ):
        assert set(scrape(port)) == {
            metrics.INFO,
            metrics.RANKS,
            metrics.STEP,
            metrics.STEPS,
            metrics.DATA_WAIT_S,
        }
        snapshot.loss = math.nan
        assert math.isnan(scrape(port)[metrics.LOSS][1])


def test_before_the_first_commit_its_age_counts_from_the_start() -> None:
    collector = _collector(MetricsSnapshot(), committed_at=lambda: None)
    [age] = [
        family.samples[0].value
        for family in collector.collect()
        if family.name == metrics.COMMIT_AGE
    ]
    assert 0 <= age < 60


def test_no_port_is_opened_unless_one_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    before = _listening()
    for environ in ({}, {metrics.PORT: ""}):
        with served(_collector(_readings()), 0, environ):
            assert _listening() <= before
    assert capsys.readouterr().err == ""


def test_a_port_in_use_costs_one_line_and_the_metrics(
    taken: int, capsys: pytest.CaptureFixture[str]
) -> None:
    done = False
    with served(_collector(_readings()), 0, {metrics.PORT: str(taken)}):
        done = True
    assert done
    [line] = capsys.readouterr().err.splitlines()
    assert f"without metrics, on port {taken}: Address already in use" in line


@pytest.mark.parametrize("port", ["http", "-1", "0", "65535"])
def test_a_port_that_is_none_does_not_end_the_training_either(
    port: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(_collector(_readings()), 0 if port == "0" else 1, {metrics.PORT: port}):
        pass
    [line] = capsys.readouterr().err.splitlines()
    assert "no port between 1 and 65535" in line


def test_peaks_are_known_by_name_and_the_environment_overrules(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(metrics.PEAK, raising=False)
    named = {
        "NVIDIA H100 80GB HBM3": 989e12,
        "NVIDIA H100 PCIe": 756e12,
        "NVIDIA A100-SXM4-80GB": 312e12,
        "NVIDIA L40S": 362e12,
        "NVIDIA L4": 121e12,
        "NVIDIA RTX A1000": None,
    }
    for name, peak in named.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert peak_flops(torch.device("cuda"), torch.bfloat16) == peak
    assert peak_flops(torch.device("cuda"), torch.float32) is None
    assert peak_flops(torch.device("cpu"), torch.bfloat16) is None
    monkeypatch.setenv(metrics.PEAK, "50")
    assert peak_flops(torch.device("cpu"), torch.float32) == 50e12
    assert full_speed(100.0, 2, 50e12) == 1e12
    assert full_speed(None, 2, 50e12) is full_speed(100.0, 2, None) is None


@pytest.mark.parametrize(
    ("frozen", "expected"),
    [((), 6 * 110), (("vision",), 6 * 100 + 2 * 10), (("llm",), 6 * 10 + 4 * 100)],
)
def test_flops_of_a_token_depend_on_what_is_frozen(
    frozen: tuple[str, ...], expected: float
) -> None:
    modules = {
        "llm": torch.nn.Linear(10, 10, bias=False),
        "vision": torch.nn.Linear(10, 1, bias=False),
    }
    objective: Any = SimpleNamespace(model_modules=lambda: modules, frozen=frozen)
    assert NextTokenObjective.flops_per_token(objective) == expected


def _names(text: str) -> set[str]:
    return set(re.findall(r"\bvita_train_\w+", text))


def test_dashboard_and_alerts_use_exactly_the_exported_names() -> None:
    dashboard = json.loads((CHART / "dashboards" / "training.json").read_text(encoding="utf-8"))
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked += [
        entry["definition"] for entry in dashboard["templating"]["list"] if entry["type"] == "query"
    ]
    rules = yaml.safe_load((CHART / "rules" / "alerts.yaml").read_text(encoding="utf-8"))
    asked += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    assert all(_names(expression) for expression in asked)
    assert _names("\n".join(asked)) == set(metrics.HELP)


def test_alerts_and_panels_say_what_to_do() -> None:
    rules = yaml.safe_load((CHART / "rules" / "alerts.yaml").read_text(encoding="utf-8"))
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["labels"]["severity"] in {"warning", "critical"}
    dashboard = json.loads((CHART / "dashboards" / "training.json").read_text(encoding="utf-8"))
    assert all(panel["description"] for panel in dashboard["panels"])
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
