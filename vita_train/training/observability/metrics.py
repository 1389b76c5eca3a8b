"""What a rank exports to Prometheus, by name; the chart's dashboard and alerts use exactly these
names.

Imports nothing, so that a launcher without torch may import it. The exporter beside it serves the
values.
"""

from __future__ import annotations

#: Environment variable: port of local rank 0, each further rank of the node takes the next one.
#: Unset: no metrics.
PORT = "VITA_TRAIN_METRICS_PORT"
#: Environment variable: what one device computes at best in the stage's type, TFLOP/s, for MFU on
#: unlisted devices.
PEAK = "VITA_TRAIN_PEAK_TFLOPS"

#: Labels of every metric.
LABELS = ("run", "stage", "rank")
#: Further labels of `INFO`.
INFO_LABELS = ("version", "objective", "engine", "device")

INFO = "vita_train_run_info"
RANKS = "vita_train_ranks"
STEP = "vita_train_step"
STEPS = "vita_train_steps"
LOSS = "vita_train_loss"
TOKENS_PER_S = "vita_train_tokens_per_second"
MFU = "vita_train_mfu_ratio"
DATA_WAIT = "vita_train_data_wait_ratio"
DATA_WAIT_S = "vita_train_data_wait_seconds_total"
MEMORY = "vita_train_memory_peak_bytes"
COMMIT_AGE = "vita_train_last_commit_age_seconds"

#: Every metric, with what it says.
HELP: dict[str, str] = {
    INFO: "Always 1; the labels say what is trained and on what.",
    RANKS: "Ranks of the stage.",
    STEP: "Optimizer steps done, over all attempts.",
    STEPS: "Optimizer steps of the whole stage.",
    LOSS: "Mean training loss of the last logged interval, over all ranks.",
    TOKENS_PER_S: "Tokens per second in the last logged interval, of all ranks together.",
    MFU: "Model FLOP/s of all ranks over what their devices could do, 0 to 1; absent where either "
    "is not known.",
    DATA_WAIT: "Share of the last logged interval that this rank waited for data, 0 to 1.",
    DATA_WAIT_S: "Seconds that this process has waited for data.",
    MEMORY: "Most memory this rank has held so far: allocated on the GPU, or resident without one.",
    COMMIT_AGE: "Seconds since this process committed a checkpoint, or started if it has not. "
    "Rank 0 alone, which commits.",
}
