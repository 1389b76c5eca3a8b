"""vita-train: train a VITA-1.5-class omni model, stage by stage, on a laptop or a cluster."""

__version__ = "0.1.0"
