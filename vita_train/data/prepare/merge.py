"""Prepared corpora joined to one: their rows in order, in memory that does not grow with them."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vita_train.data.prepare.ctc_vocab import CtcVocab
from vita_train.data.prepare.index_writer import (
    LENGTHS,
    PART_SCHEMA,
    SCHEMA,
    IndexWriter,
    row_digest,
)
from vita_train.data.prepare.ledger import PrepareLedger, SplitLedger
from vita_train.data.prepare.reuse import META, read_meta, split_roots
from vita_train.data.prepare.row_encoder import Example
from vita_train.errors import DataError
from vita_train.storage.digest import digest_of, sha256_file

_UNITS = "ctc_vocab.json"


def prepared_below(folder: Path) -> list[Path]:
    """Return the prepared corpora of a folder, numbers in their names counted as numbers: part 2
    before part 10.

    Raises:
        DataError: there is none.
    """
    found = [
        path.parent for path in folder.glob(f"*/{META}") if (path.parent / "ledger.json").is_file()
    ]
    if not found:
        raise DataError(
            "holds no prepared corpus",
            code="VT-DATA-141",
            where=str(folder),
            remedy="give the folder that pre-tokenising saved to",
        )
    return sorted(
        found, key=lambda path: [_natural(part) for part in re.split(r"(\d+)", path.name)]
    )


def _natural(part: str) -> tuple[int, str]:
    return (int(part), "") if part.isdigit() else (-1, part)


def merge_prepared(parts: Sequence[Path], out: Path) -> PrepareLedger:
    """Join prepared corpora, in the order they are given; a dataset's split that several have is
    their rows one after the other. ``out`` appears whole or not at all.

    Raises:
        DataError: they were prepared in different ways, or with different tokenizers, or something
            lies at ``out``.
    """
    out = out.resolve()
    if out.exists():
        raise DataError(
            "is there already",
            code="VT-DATA-142",
            where=str(out),
            remedy="remove it, or name another folder",
        )
    metas = [read_meta(part) for part in parts]
    _check_alike(parts, metas)
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        ledger = _written(parts, metas, partial)
        os.replace(partial, out)
    except (pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"one of them is damaged: {error}",
            code="VT-DATA-153",
            where=", ".join(part.name for part in parts[:3]),
            remedy="prepare it again",
        ) from error
    except OSError as error:
        raise DataError(
            f"cannot be written: {error.strerror or error}",
            code="VT-DATA-143",
            where=str(error.filename or out),
            remedy="make room, or name a folder that can be made",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return ledger


def _check_alike(parts: Sequence[Path], metas: Sequence[dict[str, Any]]) -> None:
    """Refuse corpora that do not belong together."""
    for part, meta in zip(parts[1:], metas[1:], strict=True):
        other = [
            name
            for name in sorted({*metas[0]["made_with"], *meta["made_with"]} - {"budgets"})
            if metas[0]["made_with"].get(name) != meta["made_with"].get(name)
        ]
        first, here = metas[0]["made_with"]["budgets"], meta["made_with"]["budgets"]
        other += [
            f"the rows of {name}" for name in here if name in first and first[name] != here[name]
        ]
        if _tokenizer(metas[0]) != _tokenizer(meta):
            other.append("the tokenizer")
        if other:
            raise DataError(
                f"was prepared otherwise than {parts[0].name}: {', '.join(other)}",
                code="VT-DATA-144",
                where=str(part),
                remedy="prepare both with the same recipe and tokenizer.source",
            )


def _tokenizer(meta: dict[str, Any]) -> dict[str, str]:
    return {name: digest for name, digest in meta["sha256"].items() if name != _UNITS}


def _written(
    parts: Sequence[Path], metas: Sequence[dict[str, Any]], partial: Path
) -> PrepareLedger:
    shutil.copytree(parts[0] / "tokenizer", partial / "tokenizer")
    units = [CtcVocab.load(part / _UNITS) for part in parts]
    merged = CtcVocab.of_units({unit for each in units for unit in each.names[2:]}, units[0].kind)
    merged.save(partial / _UNITS)
    owners: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for part, meta in zip(parts, metas, strict=True):
        for dataset, splits in meta["datasets"].items():
            for split in splits:
                owners[dataset, split].append(part)
    digests = {
        (dataset, split): _merge_split(found, dataset, split, partial)
        for (dataset, split), found in sorted(owners.items())
    }
    with (partial / "rejects.jsonl").open("wb") as rejects:
        for part in parts:
            with (part / "rejects.jsonl").open("rb") as stream:
                shutil.copyfileobj(stream, rejects)
    ledgers = [PrepareLedger.load(part / "ledger.json") for part in parts]
    digest = digest_of([meta["digest"] for meta in metas])
    ledger = PrepareLedger(
        digest=digest,
        splits=[
            _counted(ledgers, dataset, split, digests[dataset, split])
            for dataset, split in sorted(owners)
        ],
    )
    ledger.save(partial / "ledger.json")
    (partial / META).write_text(json.dumps(_meta(metas, digest, partial), indent=1) + "\n", "utf-8")
    return ledger


def _meta(metas: Sequence[dict[str, Any]], digest: str, corpus: Path) -> dict[str, Any]:
    """Return what the whole says of itself."""
    datasets: dict[str, set[str]] = defaultdict(set)
    budgets: dict[str, Any] = {}
    for meta in metas:
        budgets |= meta["made_with"]["budgets"]
        for dataset, splits in meta["datasets"].items():
            datasets[dataset] |= set(splits)
    joined: dict[str, dict[str, Any]] = {
        name: {key: value for meta in metas for key, value in meta[name].items()}
        for name in ("tasks", "ratios")
    }
    return {
        **metas[0],
        **joined,
        "digest": digest,
        "datasets": {name: sorted(datasets[name]) for name in sorted(datasets)},
        "made_with": {**metas[0]["made_with"], "budgets": budgets},
        "sha256": {**metas[0]["sha256"], _UNITS: sha256_file(corpus / _UNITS)},
    }


def _counted(
    ledgers: Iterable[PrepareLedger], dataset: str, split: str, digest: str
) -> SplitLedger:
    """Return the counts of a split over all corpora."""
    found = [
        each
        for ledger in ledgers
        for each in ledger.splits
        if (each.dataset, each.split) == (dataset, split)
    ]
    sums: dict[str, Any] = {"reasons": defaultdict(int), "lenient": defaultdict(int)}
    for each in found:
        for name, value in each.model_dump(exclude={"dataset", "split", "digest"}).items():
            if isinstance(value, dict):
                for key, count in value.items():
                    sums[name][key] += count
            else:
                sums[name] = sums.get(name, 0) + value
    return SplitLedger(dataset=dataset, split=split, digest=digest, **sums)


def _merge_split(parts: Sequence[Path], dataset: str, split: str, out: Path) -> str:
    """Write the rows of a split that some corpora have; return their digest."""
    folders = [part / dataset / split for part in parts]
    metas = [json.loads((folder / META).read_text(encoding="utf-8")) for folder in folders]
    roots = [split_roots(folder) for folder in folders]
    for folder, meta, places in zip(folders, metas, roots, strict=True):
        if places != roots[0] or meta["settings"] != metas[0]["settings"]:
            what = "media roots" if places != roots[0] else "settings"
            raise DataError(
                f"has other {what} than {folders[0]}",
                code="VT-DATA-145",
                where=str(folder),
                remedy="prepare both from the same registry with the same recipe",
            )
    bins = metas[0]["feature_bins"]
    about = {name: metas[0][name] for name in ("dataset", "split", "settings")}
    with IndexWriter(out / dataset / split, {**about, "roots": roots[0]}, bins=bins) as writer:
        for folder, meta in zip(folders, metas, strict=True):
            tables = _rows_of(folder, meta)
            first = next(tables, None)
            if first is None:
                continue
            # Its features once, with its first rows: their offsets count from its beginning.
            writer.add(first, folder / "features.bin" if bins else None)
            for table in tables:
                writer.add(table)
    return writer.digest


def _rows_of(folder: Path, meta: dict[str, Any]) -> Iterator[pa.Table]:
    """Yield the rows of a prepared split as an index is made of, a record batch at a time."""
    rows, bins = meta["rows"], meta["feature_bins"]
    for name, digest in meta["sha256"].items():
        if sha256_file(folder / name) != digest:
            raise DataError(
                "is not what was prepared",
                code="VT-DATA-154",
                where=str(folder / name),
                remedy="prepare it again",
            )
    if not rows:
        return
    lengths = np.memmap(folder / "lengths.bin", "<i4", "r", shape=(rows, len(LENGTHS)))
    frames, features = meta["feature_frames"], None
    if bins and frames:
        features = np.memmap(folder / "features.bin", "<f2", "r", shape=(frames, bins))
    start = 0
    with pa.memory_map(str(folder / "index.arrow")) as source:
        reader = pa.ipc.open_file(source)
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            here = lengths[start : start + len(batch)]
            start += len(batch)
            digests = [
                row_digest(_example(row, place, features))
                for row, place in zip(batch.to_pylist(), here.tolist(), strict=True)
            ]
            columns = [
                *(batch.column(name) for name in SCHEMA.names),
                *(pa.array(here[:, place], pa.int32()) for place in range(len(LENGTHS))),
                pa.array(digests, pa.binary(16)),
            ]
            yield pa.table(columns, schema=PART_SCHEMA)


def _example(row: dict[str, Any], lengths: list[int], features: np.ndarray | None) -> Example:
    """Return a stored row as it was when it was digested."""
    clips: list[np.ndarray] = []
    begin = row.pop("feature_offset")
    if features is not None:
        for frames in row["audio_frames"]:
            clips.append(features[begin : begin + frames])
            begin += frames
    tokens, tiles, frames = lengths
    return Example(row=0, tokens=tokens, tiles=tiles, frames=frames, features=clips, **row)
