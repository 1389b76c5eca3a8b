"""The learning curves of one stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from vita_train.report.charts import Curve, line_chart, smooth, strip
from vita_train.report.collect import StageView

#: What events say of the machine, in words.
_USAGE = {
    "cpu_cores": "processors busy",
    "memory_now_gib": "memory, GiB",
    "gpu_busy": "share of time the GPU computes",
}


@dataclass(frozen=True)
class CurvePanel:
    """The drawings of one stage, and the numbers beside them."""

    stage: StageView
    group: str
    loss: Markup
    rate: Markup
    usage: list[tuple[str, Markup]]
    """What the first rank used of its machine over time: in words, and drawn."""
    last_loss: float
    last_dev: float | None


def curve_panel(stage: StageView) -> CurvePanel | None:
    """Draw loss, held-out loss and learning rate of a stage, or nothing if it logged no step."""
    steps, losses = series(stage.events, "loss")
    if not steps:
        return None
    dev_steps, dev = series(stage.events, "dev.loss")
    curves = [
        Curve(steps, losses, "raw", "loss"),
        Curve(steps, smooth(losses, max(2, len(losses) // 25)), "main"),
        Curve(dev_steps, dev, "dev", "held out"),
    ]
    positive = [value for value in losses + dev if value > 0]
    # A loss that fell to a tenth is flat for most of a linear axis.
    log = len(positive) == len(losses) + len(dev) and max(positive) > 10 * min(positive)
    title = f"{stage.name} {stage.title}: loss over {len(steps)} logged steps"
    return CurvePanel(
        stage,
        stage.colour,
        line_chart(curves, title=title, log=log),
        strip(*_rate(stage), title=f"{stage.name}: learning rate", form=".0e"),
        _usage(stage),
        losses[-1],
        dev[-1] if dev else None,
    )


def series(events: list[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Return (steps, values) of the events that carry a number under a key."""
    points = [
        (float(event["step"]), float(event[key]))
        for event in events
        if isinstance(event.get("step"), int | float) and isinstance(event.get(key), int | float)
    ]
    return [step for step, _ in points], [value for _, value in points]


def _usage(stage: StageView) -> list[tuple[str, Markup]]:
    drawn = [
        (words, strip(*series(stage.events, key), title=f"{stage.name}: {words}"))
        for key, words in _USAGE.items()
    ]
    return [(words, drawing) for words, drawing in drawn if drawing]


def _rate(stage: StageView) -> tuple[list[float], list[float]]:
    """The highest learning rate of each step. All modules follow one schedule, each scaled to its
    own peak."""
    steps, factors = series(stage.events, "lr_factor")
    peak = max(stage.spec.trainable.values())
    return steps, [factor * peak for factor in factors]
