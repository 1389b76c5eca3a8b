"""Tables of ``vita-train plan``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def table(*headings: str) -> Table:
    """Return an empty table; columns of words are aligned to the left."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for heading in headings:
        text = heading in ("stage", "what", "part", "module", "media")
        table.add_column(
            heading,
            justify="left" if text else "right",
            no_wrap=heading not in ("what", headings[-1]),
        )
    return table
