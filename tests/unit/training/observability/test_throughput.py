"""What was done between two log lines."""

from __future__ import annotations

import pytest

from vita_train.training.observability.telemetry import Throughput


def test_samples_are_counted_by_their_dataset_and_anew_after_each_reading() -> None:
    throughput = Throughput()
    throughput.count(100, 3)
    throughput.count_sources(["a/train/1", "b/train/1", "a/train/7"])
    rates = throughput.read()
    assert rates["samples_per_s.a"] == pytest.approx(2 * rates["samples_per_s.b"])
    assert rates["samples_per_s.a"] + rates["samples_per_s.b"] == pytest.approx(
        rates["samples_per_s"]
    )
    assert "samples_per_s.a" not in throughput.read()
