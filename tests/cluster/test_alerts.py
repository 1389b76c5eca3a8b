"""The chart's alerts in Prometheus' own rule engine: what raises each, and that nothing else
does."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.cluster.chart import CHART
from tests.helpers.cluster.processes import HOME, missing
from vita_train.training.observability import metrics

RULES = CHART / "rules" / "alerts.yaml"
ALERTS = {
    rule["alert"]: rule
    for group in yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]
}
STAGE = {"namespace": "team", "run": "r", "stage": "1.1"}
Series = dict[tuple[str, str], str]
"""(metric, rank) to its values, one a minute, as promtool writes them."""

#: Five hours of two ranks; a checkpoint every hour.
HEALTHY: Series = {
    **{(metrics.RANKS, rank): "2x300" for rank in "01"},
    **{(metrics.STEP, rank): "0+10x300" for rank in "01"},
    **{(metrics.STEPS, rank): "9000x300" for rank in "01"},
    **{(metrics.LOSS, rank): "9-0.01x300" for rank in "01"},
    **{(metrics.DATA_WAIT_S, rank): "0+6x300" for rank in "01"},
    (metrics.COMMIT_AGE, "0"): " ".join(["0+60x59"] * 5),
}
#: A stage whose last step was its last: its ranks have gone.
DONE: Series = {
    **{name: f"{values.split('x')[0]}x60 stale" for name, values in HEALTHY.items()},
    **{(metrics.STEPS, rank): "600x60 stale" for rank in "01"},
}


def _promtool(*arguments: str | Path) -> None:
    if why := missing(("promtool",)):
        pytest.skip(why)
    done = subprocess.run(
        [HOME / "bin" / "promtool", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _assert_raised(
    folder: Path, series: Series, minute: int, raised: Mapping[str, tuple[dict[str, str], str]]
) -> None:
    """At that minute these alerts are raised, each with further labels and its summary, and no
    others."""

    def expected(name: str) -> list[dict[str, Any]]:
        if name not in raised:
            return []
        labels, summary = raised[name]
        rule = ALERTS[name]
        return [
            {
                "exp_labels": {**STAGE, **rule["labels"], **labels},
                "exp_annotations": {
                    "summary": summary,
                    "description": rule["annotations"]["description"],
                },
            }
        ]

    path, where = (
        folder / "test.yaml",
        ", ".join(f'{label}="{value}"' for label, value in STAGE.items()),
    )
    path.write_text(
        yaml.safe_dump(
            {
                "rule_files": [str(RULES)],
                "evaluation_interval": "1m",
                "tests": [
                    {
                        "interval": "1m",
                        "input_series": [
                            {"series": f'{metric}{{{where}, rank="{rank}"}}', "values": values}
                            for (metric, rank), values in series.items()
                        ],
                        "alert_rule_test": [
                            {
                                "eval_time": f"{minute}m",
                                "alertname": name,
                                "exp_alerts": expected(name),
                            }
                            for name in ALERTS
                        ],
                    }
                ],
            }
        )
    )
    _promtool("test", "rules", path)


@pytest.mark.parametrize("minute", [10, 59, 150, 299])
def test_training_that_goes_well_raises_nothing(tmp_path: Path, minute: int) -> None:
    _assert_raised(tmp_path, HEALTHY, minute, {})


@pytest.mark.parametrize("minute", [61, 70, 120])
def test_a_stage_that_is_done_raises_nothing(tmp_path: Path, minute: int) -> None:
    _assert_raised(tmp_path, DONE, minute, {})


@pytest.mark.parametrize(
    ("alert", "change", "quiet", "minute", "labels", "summary"),
    [
        (
            "VitaTrainNoCommit",
            {(metrics.COMMIT_AGE, "0"): "0+60x300"},
            120,
            130,
            {},
            "No checkpoint of r stage 1.1 for 2h 10m 0s",
        ),
        (
            "VitaTrainDataWait",
            {(metrics.DATA_WAIT_S, "1"): "0+30x300"},
            10,
            60,
            {"rank": "1"},
            "Rank 1 of r stage 1.1 waits for data 50% of the time",
        ),
        (
            "VitaTrainRankGone",
            {(metrics.STEP, "1"): "0+10x30 stale"},
            30,
            40,
            {},
            "Only 1 ranks of r stage 1.1 still report",
        ),
        (
            "VitaTrainStandsStill",
            {(metrics.STEP, rank): "0+10x30 300x269" for rank in "01"},
            40,
            90,
            {},
            "r stage 1.1 has not finished a step for 15 minutes",
        ),
        (
            "VitaTrainLossNotFinite",
            {(metrics.LOSS, "0"): "9-0.01x30 NaN NaN NaN"},
            30,
            32,
            {},
            "The loss of r stage 1.1 is not finite",
        ),
        (
            "VitaTrainLossNotFinite",
            {(metrics.LOSS, "0"): "9-0.01x30 Inf Inf Inf"},
            30,
            32,
            {},
            "The loss of r stage 1.1 is not finite",
        ),
    ],
)
def test_an_alert_is_raised_by_what_it_names_and_by_no_more(
    tmp_path: Path,
    alert: str,
    change: Series,
    quiet: int,
    minute: int,
    labels: dict[str, str],
    summary: str,
) -> None:
    _assert_raised(tmp_path, HEALTHY | change, quiet, {})
    _assert_raised(tmp_path, HEALTHY | change, minute, {alert: (labels, summary)})


def test_prometheus_reads_what_the_dashboard_asks(tmp_path: Path) -> None:
    dashboard = json.loads((CHART / "dashboards" / "training.json").read_text(encoding="utf-8"))
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    path = tmp_path / "rules.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "groups": [
                    {
                        "name": "dashboard",
                        "rules": [
                            {"record": f"panel:{number}", "expr": expression}
                            for number, expression in enumerate(asked)
                        ],
                    }
                ]
            }
        )
    )
    _promtool("check", "rules", path)
