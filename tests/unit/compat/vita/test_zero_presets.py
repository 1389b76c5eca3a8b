"""Presets of ZeRO by their public names (A18)."""

from __future__ import annotations

import pytest

from vita_train.compat.vita.zero import read_zero


@pytest.mark.parametrize(
    ("name", "stage", "offload"),
    [
        ("deepspeed_zero1", 1, "none"),
        ("deepspeed_zero2", 2, "none"),
        ("deepspeed_zero2_offload", 2, "optimizer"),
        ("deepspeed_zero3", 3, "none"),
        ("deepspeed_zero3_offload", 3, "all"),
    ],
)
def test_a18_a_preset_is_a_stage_and_what_is_offloaded(name: str, stage: int, offload: str) -> None:
    zero = read_zero(name)
    assert (zero.stage, zero.offload, zero.scheduler) == (stage, offload, "")
