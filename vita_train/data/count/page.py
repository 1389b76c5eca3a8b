"""Counts as one HTML page, which loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from vita_train.data.count.gather import SplitCounts
from vita_train.data.count.shares import StageShares


def write_page(
    path: Path, splits: Sequence[SplitCounts], shares: Sequence[StageShares], title: str
) -> None:
    """Write the page, whole or not at all."""
    environment = Environment(
        loader=PackageLoader("vita_train.data.count"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("count.html.j2").render(
        title=title, splits=splits, shares=shares
    )
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8", errors="backslashreplace")
    part.replace(path)
