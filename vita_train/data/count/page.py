"""Counts as one HTML page, which loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vita_train.data.count.gather import SplitCounts
from vita_train.data.count.shares import StageShares
from vita_train.page import page_environment
from vita_train.storage.whole_file import whole_file


def write_page(
    path: Path, splits: Sequence[SplitCounts], shares: Sequence[StageShares], title: str
) -> None:
    """Write the page, whole or not at all."""
    text = (
        page_environment("vita_train.data.count")
        .get_template("count.html.j2")
        .render(title=title, splits=splits, shares=shares)
    )
    with whole_file(path, errors="backslashreplace") as stream:
        stream.write(text)
