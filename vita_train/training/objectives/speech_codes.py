"""Codes of all utterances of a stage: made once, by its ranks together before the first step, and
kept in the run's store.

Each rank makes its share of the parts, small enough that a kill costs little; rank 0 joins them to
a file per split. A stage that goes on, or is trained again, takes the files as they are for as long
as neither the codec nor the data has changed.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from vita_train.console import progress
from vita_train.storage.base import DamagedError, FileRef, MissingKeyError
from vita_train.storage.cache import fetch_file
from vita_train.storage.digest import digest_of
from vita_train.storage.disk_errors import translate_os_errors
from vita_train.storage.host_cache import cache_dir
from vita_train.storage.scratch import scratch_folder
from vita_train.training.objectives.base import Kept
from vita_train.training.parallel.distributed import gather_when_done

if TYPE_CHECKING:
    from vita_train.data.index.corpus import Index
    from vita_train.data.index.sample import Sample

#: Utterances of a part, and rows of each batch of the joined file.
PART = 256
_FORMAT = "vita-train/speech-codes/v1"
#: Null is an utterance that could not be read.
_SCHEMA = pa.schema([("codes", pa.list_(pa.int32()))], metadata={"format": _FORMAT})

Encode = Callable[["Sample"], "np.ndarray[Any, Any] | None"]
"""Makes the codes of an utterance, (T,); None where it cannot be read."""


@dataclass
class SpeechCodes:
    """Codes by dataset, split and row, in files that are mapped; loader workers open them anew."""

    files: dict[str, Path] = field(default_factory=dict)
    """``dataset/split`` to its file."""
    _open: dict[str, Any] = field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"files": self.files, "_open": {}}

    def get(self, sample: Sample) -> Tensor | None:
        """Return the codes of a sample, (T,) long, or None where they are not known."""
        name = f"{sample.dataset}/{sample.split}"
        if name not in self.files:
            return None
        if name not in self._open:
            self._open[name] = pa.ipc.open_file(pa.memory_map(str(self.files[name])))
        number, row = divmod(sample.index, PART)
        codes = self._open[name].get_batch(number).column("codes")[row]
        if not codes.is_valid:
            return None
        return torch.from_numpy(codes.values.to_numpy().astype(np.int64))


def make_codes(
    indexes: Mapping[str, Index],
    encode: Encode,
    codec: nn.Module,
    kept: Kept,
    *,
    rank: int = 0,
    world: int = 1,
) -> dict[str, Path]:
    """Return the files with the codes of every utterance of some splits, for `SpeechCodes`; every
    rank must call it.

    Args:
        indexes: ``dataset/split`` to its index.
        encode: makes the codes of one utterance.
        codec: whose weights they depend on.
        kept: where; what another codec or other data left there is removed.
        rank, world: this rank among all.

    Raises:
        StorageError, UserError: as `Store` says.
    """
    names = sorted(indexes)
    made_from = [_FORMAT, _digest(codec), *((name, indexes[name].digest) for name in names)]
    splits = _Splits(indexes, encode, kept, f"{kept.key}/codes/{digest_of(made_from)[:16]}")
    # Rank 0 looks for all: another might find what was stored a moment later
    done = {name: splits.done(name) for name in names} if rank == 0 else {}
    missing = gather_when_done([name for name, ref in done.items() if ref is None])[0]
    mine = splits.parts(missing)[rank::world]
    label = "parts of speech codes" + (f", of {world} ranks this one" if world > 1 else "")
    for name, number in progress(mine, len(mine), label) if rank == 0 else mine:
        if splits.part(name, number) is None:
            splits.make(name, number)
    gather_when_done(None)
    if rank == 0:
        done |= {name: splits.join(name) for name in missing}
        splits.tidy()
    refs = gather_when_done(
        {name: ref.model_dump(mode="json") for name, ref in done.items() if ref}
    )[0]
    return {
        name: fetch_file(FileRef.model_validate(ref), endpoint=kept.endpoint)
        for name, ref in refs.items()
    }


@dataclass(frozen=True)
class _Splits:
    """What there is to encode, and where its codes are kept."""

    indexes: Mapping[str, Index]
    encode: Encode
    kept: Kept
    folder: str

    def done(self, name: str) -> FileRef | None:
        """Return the file of a split, if it was finished and is what was written."""
        try:
            ref = FileRef.model_validate_json(self.kept.store.read(self._ref_key(name)))
            fetch_file(ref, endpoint=self.kept.endpoint)
        except (MissingKeyError, DamagedError, ValueError):
            return None
        return ref

    def parts(self, names: Sequence[str]) -> list[tuple[str, int]]:
        """Return the parts of some splits, by name and number."""
        return [
            (name, number)
            for name in names
            for number in range(-(-len(self.indexes[name]) // PART))
        ]

    def part(self, name: str, number: int) -> pa.RecordBatch | None:
        """Return a part that was made; None where it is missing or not whole."""
        try:
            stored = pa.ipc.open_file(io.BytesIO(self.kept.store.read(self._key(name, number))))
            batch = stored.get_batch(0)
        except (MissingKeyError, pa.ArrowException):
            return None
        whole = batch.num_rows == len(self._rows(name, number))
        return batch if whole and stored.schema.equals(_SCHEMA, check_metadata=True) else None

    def make(self, name: str, number: int) -> pa.RecordBatch:
        """Encode the utterances of a part, store it, and return it."""
        index = self.indexes[name]
        codes = [self.encode(index.sample(row)) for row in self._rows(name, number)]
        batch = pa.record_batch([pa.array(codes, type=_SCHEMA.field(0).type)], schema=_SCHEMA)
        buffer = io.BytesIO()
        with pa.ipc.new_file(buffer, _SCHEMA) as file:
            file.write_batch(batch)
        self.kept.store.write(self._key(name, number), buffer.getvalue())
        return batch

    def join(self, name: str) -> FileRef:
        """Write the parts of a split as one file, and then that it is finished."""
        with scratch_folder(cache_dir() / "codes", "joined") as scratch:
            path = scratch / "codes.arrow"
            with translate_os_errors(path), pa.ipc.new_file(str(path), _SCHEMA) as file:
                for _, number in self.parts([name]):
                    file.write_batch(self.part(name, number) or self.make(name, number))
            ref = self.kept.store.upload(path, f"{self.folder}/{name}.arrow", move=True)
        self.kept.store.write(self._ref_key(name), ref.model_dump_json().encode())
        return ref

    def tidy(self) -> None:
        """Remove parts, and codes of other weights or data."""
        store, wanted = self.kept.store, {self._ref_key(name) for name in self.indexes}
        wanted |= {f"{self.folder}/{name}.arrow" for name in self.indexes}
        store.delete([key for key in store.list(f"{self.kept.key}/codes/") if key not in wanted])

    def _rows(self, name: str, number: int) -> range:
        return range(number * PART, min((number + 1) * PART, len(self.indexes[name])))

    def _key(self, name: str, number: int) -> str:
        return f"{self.folder}/parts/{name}/{number:06}.arrow"

    def _ref_key(self, name: str) -> str:
        return f"{self.folder}/{name}.json"


def _digest(module: nn.Module) -> str:
    """Return a digest of a module's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
