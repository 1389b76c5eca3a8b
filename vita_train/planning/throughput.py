"""How long a stage takes for the tokens it sees, estimated from its FLOPs."""

from __future__ import annotations

from vita_train.planning.plan import StagePlan

#: Stages whose length is counted in tokens of the language model.
LANGUAGE = "llm"
_BILLION = 1e9


def flops_per_token(stage: StagePlan) -> float:
    """Return the model FLOPs of a token, forward and backward.

    2 a parameter forward, 2 for its input's gradient where something before it trains, 2 for its
    own where it trains: 6, 4 or 2. As the training loop counts them, towers see one position a
    token, all experts are read, attention's quadratic part and recomputed activations do not count.
    """
    before = any(name != LANGUAGE for name in stage.trained)
    total = 0.0
    for name, count in stage.modules.items():
        trained = stage.trained.get(name, 0)
        passes_on = name in stage.trained or (name == LANGUAGE and before)
        total += 6 * trained + (4 if passes_on else 2) * (count - trained)
    return total


def hours_per_billion(stage: StagePlan, peak: float, ranks: int, utilisation: float) -> float:
    """Return the hours that a billion tokens take.

    Args:
        stage: what is computed.
        peak: FLOP/s of one device at best.
        ranks: devices.
        utilisation: share of the peak that is reached (MFU), 0 to 1.
    """
    return flops_per_token(stage) * _BILLION / (peak * utilisation * ranks) / 3600
