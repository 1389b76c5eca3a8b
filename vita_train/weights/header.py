"""What a safetensors file says it holds, checked before any of it is believed.

Format: eight bytes little-endian header length, a JSON header of name to dtype, shape and
data_offsets, then the data.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from vita_train.errors import CheckpointError

#: Bytes of an element. Other types are never written here.
ELEMENT_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
_LONGEST_HEADER = 100_000_000


class TensorInfo(NamedTuple):
    """One tensor of a file."""

    dtype: str
    """``F32``, ``BF16``, ..., ``I64``, ``BOOL``."""
    shape: tuple[int, ...]
    start: int = 0
    """Place of its data in the file, bytes."""

    @property
    def floating(self) -> bool:
        """True for types that hold real numbers."""
        return self.dtype in ("F64", "F32", "F16", "BF16")


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Return the tensors of a file in the order of their data.

    Reads the header only; nothing is allocated from a number the file claims.

    Raises:
        CheckpointError: the file is missing, cut off, not safetensors, contradicts itself, or is a
            link that leads out of its directory.
    """
    path = Path(path)
    check_link(path)
    if not path.is_file():
        raise CheckpointError(
            "no such weights file",
            code="VT-WEIGHTS-060",
            where=str(path),
            remedy="run the step that writes it again",
        )
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        # 10: the length and the shortest header there is, {}
        if size < 10 or length > size - 8 or length > _LONGEST_HEADER:
            raise _refused(
                path, f"is not a whole safetensors file ({size} bytes, header of {length})"
            )
        text = file.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refused(path, "is not a safetensors file (its header is not JSON)") from error
    if not isinstance(header, dict):
        raise _refused(path, "is not a safetensors file (its header is not an object)")
    header.pop("__metadata__", None)
    return _tensors(path, header, 8 + length, size - 8 - length)


def check_link(path: Path) -> None:
    """Refuse a link that leads out of its directory; the hub's cache, whose files are links, may
    lead to its blobs.

    Raises:
        CheckpointError: it does.
    """
    parent, target = path.parent.resolve(), path.resolve()
    # snapshots/<commit>/file -> blobs/<digest> is how huggingface_hub keeps a repository
    hub = parent.parent.name == "snapshots" and target.parent == parent.parent.parent / "blobs"
    if path.is_symlink() and not hub and not target.is_relative_to(parent):
        raise _refused(path, "is a link out of its directory")


def _tensors(path: Path, header: dict[str, Any], begin: int, data: int) -> dict[str, TensorInfo]:
    found: list[tuple[int, int, str, TensorInfo]] = []
    for name, entry in header.items():
        try:
            start, end = entry["data_offsets"]
            info = TensorInfo(entry["dtype"], tuple(entry["shape"]))
            # type, not isinstance: JSON's true would pass for 1
            whole = all(type(n) is int and n >= 0 for n in (*info.shape, start, end))
            fits = whole and end - start == math.prod(info.shape) * ELEMENT_BYTES[info.dtype]
        except (KeyError, TypeError, ValueError) as error:
            raise _refused(
                path, f"describes tensor {name!r} in a way that cannot be read"
            ) from error
        if not fits:
            raise _refused(path, f"gives tensor {name!r} a place that does not fit its shape")
        found.append((start, end, name, info._replace(start=begin + start)))
    # TensorInfo is left out of the comparison; empty tensors may share their place
    found.sort(key=lambda entry: entry[:3])
    reached = 0
    for start, end, name, _ in found:
        # Data without gaps, as the format demands: nothing can be hidden between tensors
        if start != reached:
            raise _refused(path, f"has a gap or an overlap before tensor {name!r}")
        reached = end
    if reached != data:
        raise _refused(path, f"holds {data} bytes of tensors where its header says {reached}")
    return {name: info for _, _, name, info in found}


def _refused(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{what}", code="VT-WEIGHTS-061", where=str(path), remedy="copy or write the file again"
    )
