"""Tensors that pass from file to file in small pieces, so that a checkpoint may be larger than the
memory.

What is moved are bytes: every type passes unchanged, bit for bit, and no more than one piece is
held at a time.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vita_train.errors import CheckpointError
from vita_train.storage.disk_errors import translate_os_errors
from vita_train.weights.header import ELEMENT_BYTES, TensorInfo, read_header

#: Bytes held at a time.
PIECE_BYTES = 8 << 20
#: Bytes at whose multiples torch lays its own tensors. Kernels round otherwise for tensors that lie
#: elsewhere.
ALIGNMENT = 64
#: torch's types by their names in a file.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor wherever it lies."""

    info: TensorInfo
    read: Callable[[int, int], Iterator[bytes | memoryview]]
    """Pieces of ``length`` bytes of its data from ``start`` on: ``read(start, length)``."""

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        return math.prod(self.info.shape) * ELEMENT_BYTES[self.info.dtype]

    def share(self, index: int, count: int) -> StoredTensor:
        """Return one of ``count`` equal parts along the first axis; of one part, a scalar too."""
        if count == 1:
            return self
        first, *rest = self.info.shape
        size = self.nbytes // count
        # Parts along the first axis are stretches of the bytes, as tensors lie row by row
        info = self.info._replace(shape=(first // count, *rest))
        return StoredTensor(info, lambda start, length: self.read(index * size + start, length))

    def load(self) -> Tensor:
        """Return it as a tensor in memory."""
        data = bytearray(self.nbytes)
        place = 0
        for piece in self.read(0, self.nbytes):
            data[place : place + len(piece)] = piece
            place += len(piece)
        # bytearray, not bytes: tensors over memory that cannot be written to are warned about
        return torch.frombuffer(data, dtype=DTYPES[self.info.dtype]).reshape(self.info.shape)


def joined(parts: Sequence[StoredTensor]) -> StoredTensor:
    """Return tensors of one type and shape joined along their first axis."""
    if len(parts) == 1:
        return parts[0]
    first, *rest = parts[0].info.shape

    def read(start: int, length: int) -> Iterator[bytes | memoryview]:
        for part in parts:
            inside = min(max(0, part.nbytes - start), length)
            if inside:
                yield from part.read(start, inside)
            start, length = max(0, start - part.nbytes), length - inside

    return StoredTensor(parts[0].info._replace(shape=(first * len(parts), *rest)), read)


def checked(tensor: StoredTensor, name: str, where: str) -> StoredTensor:
    """Return a tensor that refuses to be read where its values are not finite.

    Raises:
        CheckpointError: while it is read, with its name.
    """
    if not tensor.info.floating:
        return tensor

    def read(start: int, length: int) -> Iterator[bytes | memoryview]:
        for piece in tensor.read(start, length):
            if not _is_finite(piece, tensor.info.dtype):
                raise CheckpointError(
                    f"{name} holds values that are not finite",
                    code="VT-WEIGHTS-083",
                    where=where,
                    remedy="get the weights again, or take an earlier checkpoint of them",
                )
            yield piece

    return StoredTensor(tensor.info, read)


def _is_finite(piece: bytes | memoryview, dtype: str) -> bool:
    if dtype == "BF16":  # all bits of the exponent set is infinity or NaN
        return not bool((np.frombuffer(piece, "<u2") & 0x7F80 == 0x7F80).any())
    return bool(np.isfinite(np.frombuffer(piece, f"<f{ELEMENT_BYTES[dtype]}")).all())


def tensors_in(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a safetensors file, in the order of their data; nothing but the header
    is read.

    Raises:
        CheckpointError: as `read_header` says.
    """
    return {name: _in_file(path, info) for name, info in read_header(path).items()}


def tensor_in_memory(tensor: Tensor) -> StoredTensor:
    """Return a tensor of this process (memory-mapped ones included) to be written."""
    if tensor.dtype not in _NAMES:
        raise CheckpointError(
            f"tensors of type {tensor.dtype} cannot be stored", code="VT-WEIGHTS-080"
        )

    def read(start: int, length: int) -> Iterator[bytes | memoryview]:
        # numpy has no bfloat16: its bytes are looked at as plain ones
        data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
        for place in range(start, start + length, PIECE_BYTES):
            yield data[place : min(place + PIECE_BYTES, start + length)]

    return StoredTensor(TensorInfo(_NAMES[tensor.dtype], tuple(tensor.shape)), read)


def write_tensors(
    path: Path, tensors: Mapping[str, StoredTensor], metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file piece by piece; it gets its name when it is whole.

    Raises:
        UserError, StorageError: the disk is full or cannot be written.
        CheckpointError: a source became shorter while it was read.
    """
    # Sizes that keep the alignment first, then wide elements first: each lies at a multiple of
    # ALIGNMENT, or at least
    # of its elements' size, as readers that map the file expect.
    order = sorted(
        tensors,
        key=lambda name: (
            tensors[name].nbytes % ALIGNMENT != 0,
            -ELEMENT_BYTES[tensors[name].info.dtype],
            name,
        ),
    )
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    place = 0
    for name in order:
        tensor = tensors[name]
        header[name] = {
            "dtype": tensor.info.dtype,
            "shape": list(tensor.info.shape),
            "data_offsets": [place, place + tensor.nbytes],
        }
        place += tensor.nbytes
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    # The format allows spaces behind the header: data then begin at a multiple too
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with translate_os_errors(path), partial.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in order:
                for piece in tensors[name].read(0, tensors[name].nbytes):
                    file.write(piece)
            # A source that was cut off meanwhile gives fewer bytes, and no error by itself
            if file.tell() != 8 + len(text) + place:
                raise CheckpointError(
                    "changed while it was copied",
                    code="VT-WEIGHTS-081",
                    where=str(path),
                    remedy="run the command again",
                )
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _in_file(path: Path, info: TensorInfo) -> StoredTensor:
    def read(start: int, length: int) -> Iterator[bytes | memoryview]:
        with path.open("rb") as file:
            file.seek(info.start + start)
            while length > 0 and (piece := file.read(min(PIECE_BYTES, length))):
                length -= len(piece)
                yield piece

    return StoredTensor(info, read)
