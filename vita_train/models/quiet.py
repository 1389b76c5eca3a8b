"""What libraries say of their own that no user of a command has asked for."""

from __future__ import annotations

import logging
import os

import torch

#: Where bitsandbytes says at every start which kernels it could have had.
_BITSANDBYTES = (
    "bitsandbytes.autograd._functions",
    "bitsandbytes.backends.cpu.ops",
    "bitsandbytes.cextension",
)


def quiet_libraries() -> None:
    """Keep progress bars of weights that load in a moment, and advice, off the screen.

    Errors are not touched: libraries raise them. Must run before transformers is imported, which
    reads the variables once; a user's own values stay.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed tells that it finds no GPU
    quiet_bitsandbytes()


def quiet_bitsandbytes() -> None:
    """Let bitsandbytes report errors alone."""
    for name in _BITSANDBYTES:
        logging.getLogger(name).setLevel(logging.ERROR)
