"""What GPUs compute at best."""

from __future__ import annotations

import re

TERA = 1e12
#: Dense bfloat16 TFLOP/s by words of the device's name, from the maker's data sheets; the first
#: that fits counts.
_PEAKS = {
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "H200 NVL": 835.0,
    "H200": 989.0,
    "H800": 989.0,
    "B200": 2250.0,
    "GB200": 2500.0,
    "A100": 312.0,
    "A800": 312.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
}


def bfloat16_flops(name: str) -> float | None:
    """Return the dense bfloat16 FLOP/s of a GPU at best, None where it is not known.

    Args:
        name: the device's name as its driver gives it, or a short one such as ``h100-80``.
    """
    return next(
        (
            peak * TERA
            for words, peak in _PEAKS.items()
            if re.search(rf"\b{words}\b", name, re.IGNORECASE)
        ),
        None,
    )
