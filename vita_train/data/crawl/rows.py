"""The rows of a list, where their URLs stand, and what they become."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vita_train.data.crawl.settings import CrawlSettings, Lost, Reason
from vita_train.data.sources.texts import RowError, read_values
from vita_train.errors import DataError, UserError

#: What a crawl, a rewrite and a selection say of what they did; no lists.
_LEDGERS = (".lost.jsonl", ".rejects.jsonl", ".done.json", "selection.json", "shards.json")
ENDINGS = (".jsonl", ".json", ".jsonl.gz", ".jsonl.zst", ".parquet")
_BATCH = 1024


@dataclass(frozen=True)
class Image:
    """An image that was fetched."""

    name: str
    """Below the folder of media."""
    sha256: str


def list_files(paths: Sequence[Path]) -> list[Path]:
    """Return the lists among files and folders, in the order of their names.

    Raises:
        UserError: there is none, or two would be written to the same place.
    """
    files = [
        file
        for path in paths
        for file in (sorted(path.iterdir()) if path.is_dir() else [path])
        if file.name.endswith(ENDINGS) and not file.name.endswith(_LEDGERS) and file.is_file()
    ]
    names = [stem_of(file) for file in files]
    if not files or len(set(names)) < len(names):
        twice = next((name for name in names if names.count(name) > 1), "")
        raise UserError(
            f"two lists are named {twice}" if files else f"no list ({', '.join(ENDINGS)}) is there",
            code="VT-USE-244",
            where=", ".join(map(str, paths)),
            remedy="give other names, or others of them: each is a shard of its name",
        )
    return sorted(files, key=stem_of)


def stem_of(path: Path) -> str:
    """Return the name of a list without its ending."""
    ending = next(end for end in ENDINGS if path.name.endswith(end))
    return path.name.removesuffix(ending)


def read_rows(path: Path) -> Iterator[dict[str, Any] | None]:
    """Yield the rows of a list; None for one that is no object.

    Raises:
        DataError: the file is missing or damaged.
    """
    if path.name.endswith(".parquet"):
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(_BATCH):
                    yield from batch.to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"is no readable Parquet: {type(error).__name__}",
                code="VT-DATA-089",
                where=str(path),
                remedy="fetch it again",
            ) from error
        return
    for value in read_values(path):
        yield None if isinstance(value, RowError) or not isinstance(value, dict) else value


def urls_of(row: Mapping[str, Any] | None, settings: CrawlSettings) -> list[str]:
    """Return the URLs of a row.

    Raises:
        Lost: it has none, or is no row.
    """
    if row is None:
        raise Lost(Reason.BAD_ROW)
    if settings.kind == "urls":
        found = [row.get(settings.column)]
    else:
        images = row.get("image_info")
        if not isinstance(images, list) or not all(isinstance(one, dict) for one in images):
            raise Lost(Reason.BAD_ROW)
        found = [one.get("raw_url") for one in images]
    urls = [url for url in found if isinstance(url, str) and url]
    if len(urls) < len(found):
        raise Lost(Reason.NO_URL if settings.kind == "urls" else Reason.BAD_ROW)
    if not urls:
        raise Lost(Reason.NO_URL)
    return urls


def merged(
    row: Mapping[str, Any], images: Sequence[Image | None], place: int, settings: CrawlSettings
) -> dict[str, Any]:
    """Return a row with its images, and with its place in the list as ``source_row``.

    Of a document, the entries of images that were lost are left out, in ``similarity_matrix`` too.

    Raises:
        Lost: fewer images are there than it must keep.
    """
    kept = [index for index, image in enumerate(images) if image is not None]
    least = len(images) if not settings.at_least or settings.kind == "urls" else settings.at_least
    if len(kept) < least:
        raise Lost(Reason.TOO_FEW)
    found = [{"image": one.name, "image_sha256": one.sha256} for one in images if one is not None]
    if settings.kind == "urls":
        return {**row, "source_row": place, **found[0]}
    entries = [
        {**row["image_info"][index], **image} for index, image in zip(kept, found, strict=True)
    ]
    changed = {**row, "source_row": place, "image_info": entries}
    matrix = row.get("similarity_matrix")
    if isinstance(matrix, list) and len(matrix) == len(images):
        changed["similarity_matrix"] = [matrix[index] for index in kept]
    return changed
