"""Weights on disk: saved as safetensors, loaded strictly, exported with everything needed to run them."""

from vita_train.models.checkpoint.export import Exported, export_model, load_exported
from vita_train.models.checkpoint.load import Ledger, Loaded, load_modules
from vita_train.models.checkpoint.save import save_modules

__all__ = ["Exported", "Ledger", "Loaded", "export_model", "load_exported", "load_modules", "save_modules"]
