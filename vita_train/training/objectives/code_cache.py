"""Codes of utterances, made once by the training process and found by its loader workers."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import weakref
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vita_train.storage.scratch import held_folder


class CodeCache:
    """Codes by sample, in files of this machine: workers are processes of their own and share no
    memory.

    The files live as long as the process that made the cache. It must be made before workers are
    started.

    Args:
        most_bytes: size from which on nothing is added; 256 MB hold the codes of about 450 hours of
            speech.
    """

    def __init__(self, most_bytes: int = 256 << 20) -> None:
        # Held, so that the next one removes what a killed process left.
        self._folder, self._handle = held_folder(Path(tempfile.gettempdir()), "codes")
        self._left = most_bytes
        # The process is named, because workers that are forked inherit the finalizer
        weakref.finalize(self, _remove, self._folder, self._handle, os.getpid())

    def get(self, sample_id: str) -> Tensor | None:
        """Return the codes of a sample, (T,) long, or None where they are not known."""
        try:
            # allow_pickle stays off, as numpy has it: nothing in the file is run
            return torch.from_numpy(np.load(self._path(sample_id)).astype(np.int64))
        except FileNotFoundError:
            return None

    def add(self, sample_id: str, codes: Tensor) -> None:
        """Keep the codes of a sample, (T,), unless the cache is full."""
        values = codes.cpu().numpy().astype(np.int32)
        if values.nbytes > self._left:
            return
        self._left -= values.nbytes
        path = self._path(sample_id)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        with partial.open("wb") as file:
            np.save(file, values)
        partial.replace(path)  # a worker never sees half a file

    def _path(self, sample_id: str) -> Path:
        return self._folder / f"{hashlib.sha256(sample_id.encode()).hexdigest()[:32]}.npy"


def _remove(folder: Path, handle: int, owner: int) -> None:
    """Remove the files, but not when a worker that was forked lets go of its copy of the cache."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)
