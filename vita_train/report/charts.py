"""Inline SVG: learning curves and waveforms, coloured by the page's style sheet so that they follow
light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

#: Points kept of a long curve; more cannot be told apart at the width of a page.
MAX_POINTS = 240


@dataclass(frozen=True)
class Curve:
    """One line of a chart. ``style`` is a class of the style sheet: ``raw``, ``main``, ``dev`` or
    ``rate``."""

    x: Sequence[float]
    y: Sequence[float]
    style: str
    label: str = ""


def smooth(y: Sequence[float], span: int) -> list[float]:
    """Return the exponential moving average with its early bias removed (Kingma & Ba 2015, section
    3)."""
    decay = 1.0 - 1.0 / max(1, span)
    average, out = 0.0, []
    for step, value in enumerate(y, start=1):
        average = decay * average + (1.0 - decay) * value
        out.append(average / (1.0 - decay**step))
    return out


def thin(
    x: Sequence[float], y: Sequence[float], limit: int = MAX_POINTS
) -> tuple[list[float], list[float]]:
    """Drop what is not a number and average neighbours until at most ``limit`` points are left."""
    points = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]
    if len(points) <= limit:
        return [a for a, _ in points], [b for _, b in points]
    buckets = np.array_split(np.asarray(points, dtype=float), limit)
    means = [bucket.mean(axis=0) for bucket in buckets]
    return [float(mean[0]) for mean in means], [float(mean[1]) for mean in means]


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return about ``count`` round numbers (1, 2 or 5 times a power of ten apart) inside [low,
    high]."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low] if math.isfinite(low) else []
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def line_chart(
    curves: Sequence[Curve], *, title: str, width: int = 360, height: int = 150, log: bool = False
) -> Markup:
    """Draw curves over training steps; empty markup if there is nothing to draw.

    Args:
        curves: drawn in order, the last on top.
        title: read out by screen readers.
        width, height: of the drawing, pixels.
        log: logarithmic vertical axis; values that are not positive are left out.
    """
    drawn = []
    for curve in curves:
        x, y = thin(curve.x, curve.y)
        if log:
            pairs = [(a, math.log10(b)) for a, b in zip(x, y, strict=True) if b > 0]
            x, y = [a for a, _ in pairs], [b for _, b in pairs]
        if x:
            drawn.append((curve, x, y))
    if not drawn:
        return Markup("")
    left, right, top, bottom = 38, 8, 8, 18
    x_low, x_high = min(min(x) for _, x, _ in drawn), max(max(x) for _, x, _ in drawn)
    y_low, y_high = min(min(y) for _, _, y in drawn), max(max(y) for _, _, y in drawn)
    margin = 0.06 * (y_high - y_low) or 0.5
    y_low, y_high = y_low - margin, y_high + margin

    def px(value: float) -> float:
        return left + (width - left - right) * (value - x_low) / ((x_high - x_low) or 1.0)

    def py(value: float) -> float:
        return top + (height - top - bottom) * (y_high - value) / (y_high - y_low)

    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img">',
        Markup("<title>{}</title>").format(title),
    ]
    for tick in _ticks(y_low, y_high, log):
        y_at = py(math.log10(tick) if log else tick)
        parts.append(
            f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y_at:.1f}" y2="{y_at:.1f}"/>'
        )
        parts.append(
            f'<text class="tick" x="{left - 6}" y="{y_at + 3:.1f}" '
            f'text-anchor="end">{tick:g}</text>'
        )
    for value, anchor in ((x_low, "start"), (x_high, "end")):
        parts.append(
            f'<text class="tick" x="{px(value):.1f}" y="{height - 4}" text-anchor="{anchor}">'
            f"{value:,.0f}</text>"
        )
    for curve, x, y in drawn:
        points = " ".join(f"{px(a):.1f},{py(b):.1f}" for a, b in zip(x, y, strict=True))
        parts.append(f'<polyline class="curve {curve.style}" points="{points}"/>')
        if curve.style == "dev":
            parts += [
                f'<circle class="curve-dot" cx="{px(a):.1f}" cy="{py(b):.1f}" r="2.6"/>'
                for a, b in zip(x, y, strict=True)
            ]
    parts.append("</svg>")
    return Markup("".join(parts))


def _ticks(low: float, high: float, log: bool) -> list[float]:
    if not log:
        return nice_ticks(low, high)
    decades = range(math.floor(low), math.ceil(high) + 1)
    ticks = [factor * 10.0**power for power in decades for factor in (1, 2, 5)]
    inside = [tick for tick in ticks if low <= math.log10(tick) <= high]
    whole = [tick for tick in inside if f"{tick:e}".startswith("1.0")]
    return whole if len(inside) > 5 and len(whole) >= 2 else inside


def strip(
    x: Sequence[float],
    y: Sequence[float],
    *,
    title: str,
    form: str = ".3g",
    width: int = 360,
    height: int = 30,
) -> Markup:
    """Draw values that are not negative as a small filled strip from zero to their peak, with the
    peak beside it.

    Args:
        x, y: points.
        title: read out by screen readers, and shown where the mouse rests.
        form: how the peak is written.
        width, height: of the drawing, pixels.
    """
    x, y = thin(x, y, 120)
    if not x or max(y) <= 0:
        return Markup("")
    left, right = 38, 8
    span = (x[-1] - x[0]) or 1.0
    points = [
        (left + (width - left - right) * (a - x[0]) / span, 2 + (height - 4) * (1 - b / max(y)))
        for a, b in zip(x, y, strict=True)
    ]
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    area = f"{points[0][0]:.1f},{height - 2} {line} {points[-1][0]:.1f},{height - 2}"
    return Markup(
        '<svg class="chart strip" viewBox="0 0 {} {}" role="img"><title>{}</title>'
        '<polygon class="rate-area" points="{}"/><polyline class="curve rate" points="{}"/>'
        '<text class="tick" x="{}" y="12" text-anchor="end">{}</text></svg>'
    ).format(width, height, title, area, line, left - 6, format(max(y), form).replace("e-0", "e-"))


def waveform(samples: np.ndarray, *, bars: int = 96, width: int = 288, height: int = 40) -> Markup:
    """Draw the envelope of a recording, loudest sample to full height.

    Args:
        samples: (n,) floats.
    """
    if samples.size == 0:
        return Markup("")
    peaks = np.array(
        [np.abs(part).max() if part.size else 0.0 for part in np.array_split(samples, bars)]
    )
    peaks = peaks / max(float(peaks.max()), 1e-6)
    step = width / bars
    bars_svg = "".join(
        f'<rect x="{i * step:.1f}" y="{(height - h) / 2:.1f}" width="{step * 0.6:.1f}" '
        f'height="{h:.1f}" rx="0.8"/>'
        for i, h in enumerate(np.maximum(peaks * (height - 4), 1.5))
    )
    return Markup(
        f'<svg class="wave" viewBox="0 0 {width} {height}" preserveAspectRatio="none" '
        f'aria-hidden="true">{bars_svg}</svg>'
    )
