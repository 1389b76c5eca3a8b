"""The image-text pairs of COYO whose two similarities are highest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vita_train.data.select.tables import opened
from vita_train.errors import DataError
from vita_train.storage.whole_file import check_not_read, whole_file

SCORES = ("clip_similarity_vitb32", "clip_similarity_vitl14")
KEPT = ("id", "url", "text")
SCORE = "clip_sim"
_BATCH = 65536


@dataclass(frozen=True)
class TopSettings:
    """Which rows are taken: as many as ``share`` of all, the highest sums of both similarities.
    Of equal sums the earlier row is taken first."""

    share: float = 0.2
    threshold: float = 0.6
    """Sums must be above it; a table with too few of those is refused."""
    scope: Literal["shard", "global"] = "shard"
    """The share is that of each file, as VILA takes it, or of all files together. ``global`` holds
    the sums of all rows in memory, 8 bytes each."""


@dataclass(frozen=True)
class Selected:
    """What was taken of a file."""

    rows: int
    kept: int
    cutoff: float | None
    """The lowest sum that was taken."""


def select_top(paths: Sequence[Path], out: Path, settings: TopSettings) -> dict[str, Selected]:
    """Write the taken rows of each file under its name, in their order, with the sum as
    ``clip_sim``; what was taken stands in ``selection.json``.

    Raises:
        UserError: ``out`` is the folder of a file that is read.
        DataError: a file cannot be read, lacks columns, or has too few rows above the threshold.
    """
    files = sorted(paths, key=lambda path: path.name)
    for path in files:
        check_not_read(out / path.name, files)
    sums = [_sums(path) for path in files]
    if settings.scope == "shard":
        masks = [
            _taken(values, settings, str(path)) for values, path in zip(sums, files, strict=True)
        ]
    else:
        mask = _taken(np.concatenate(sums), settings, "all files")
        masks = np.split(mask, np.cumsum([len(values) for values in sums])[:-1])
    out.mkdir(parents=True, exist_ok=True)
    found = {}
    for path, values, mask in zip(files, sums, masks, strict=True):
        _write(path, out / path.name, values, mask)
        lowest = float(values[mask].min()) if mask.any() else None
        found[path.name] = Selected(len(values), int(mask.sum()), lowest)
    with whole_file(out / "selection.json") as stream:
        shards = {name: asdict(each) for name, each in found.items()}
        json.dump({"settings": asdict(settings), "shards": shards}, stream, indent=1)
    return found


def _sums(path: Path) -> np.ndarray:
    """Return (rows,) float64; what is no number counts as lowest."""
    with opened(path, (*SCORES, *KEPT)) as file:
        parts = []
        for batch in file.iter_batches(_BATCH, columns=list(SCORES)):
            columns = [pc.cast(batch[name], pa.float64()) for name in SCORES]
            parts.append(pc.add(*columns).to_numpy(zero_copy_only=False))
    values = np.concatenate(parts) if parts else np.zeros(0)
    return np.where(np.isnan(values), -np.inf, values)


def _taken(values: np.ndarray, settings: TopSettings, where: str) -> np.ndarray:
    count = int(settings.share * len(values))
    above = int((values > settings.threshold).sum())
    if above < count:
        raise DataError(
            f"{above} of {len(values)} rows are above {settings.threshold:g}, {count} are wanted",
            code="VT-DATA-093",
            where=where,
            remedy="lower the threshold or the share",
        )
    mask = np.zeros(len(values), dtype=bool)
    mask[np.argsort(-values, kind="stable")[:count]] = True
    return mask


def _write(path: Path, target: Path, values: np.ndarray, mask: np.ndarray) -> None:
    part = target.with_name(f"{target.name}.part")
    try:
        with opened(path, KEPT) as file:
            fields = [file.schema_arrow.field(name) for name in KEPT]
            schema = pa.schema([*fields, pa.field(SCORE, pa.float64())])
            start = 0
            with pq.ParquetWriter(part, schema, compression="zstd") as writer:
                for batch in file.iter_batches(_BATCH, columns=list(KEPT)):
                    end = start + len(batch)
                    scored = batch.select(KEPT).append_column(SCORE, pa.array(values[start:end]))
                    writer.write_batch(scored.filter(pa.array(mask[start:end])).cast(schema))
                    start = end
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
