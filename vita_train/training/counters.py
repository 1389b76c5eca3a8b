"""How far a stage is: what it counts, and a checkpoint keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Counters:
    """What a stage has done so far, over all attempts. Saved with every checkpoint."""

    step: int = 0
    samples: int = 0
    tokens: int = 0
    sample_sum: int = 0
    """Sum of the id hashes of all samples so far, modulo 2**53."""
    skipped: int = 0
    """Steps without an update, because a gradient was not finite."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Samples that were passed over because they could not be read, with the reason."""
    skipped_in_a_row: int = 0
    seconds: float = 0.0
    loss: float = math.nan
    """Mean training loss of the last logged interval."""
    dev: dict[str, float] = field(default_factory=dict)
    """Dev losses of the last measurement, ``dev.loss`` and the like."""
    order: dict[str, Any] = field(default_factory=dict)
    """What the order needs to find ``step`` at once."""
    met: dict[str, int] = field(default_factory=dict)
    """Step at which each ``until`` was met (see ``step_plan.StepPlan.met``)."""
    checks: dict[str, float] = field(default_factory=dict)
    """Measures of the last look at an ``until``."""
    dev_step: int = 0
    """Step of the last measurement of ``dev``."""
    best: dict[str, float] = field(default_factory=dict)
    """Step and dev loss of the saved state with the lowest."""
    flat: dict[str, Any] = field(default_factory=dict)
    """What was seen of the loss (see ``flat_loss.FlatLoss``)."""
