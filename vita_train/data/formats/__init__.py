"""From the rows of public files to records, one file a format or a family of them.

A format is a function from rows to records and rejects, in order and in bounded memory; one whose
files are not lists of rows brings a function that reads them. A package outside this one adds a
format by calling `register_format` from its plugin (`vita_train.plugins`).
"""

from __future__ import annotations

from dataclasses import dataclass

from vita_train.plugins import Registry


@dataclass(frozen=True)
class Format:
    """How files become records."""

    records: str
    """``package.module:function``: from rows, each ``(where, value)``, to records and Rejected."""
    rows: str = ""
    """``package.module:function``: from the paths that are given to rows; empty for lists, JSON
    Lines or Parquet."""


FORMATS: Registry[Format] = Registry("row format")


def register_format(name: str, function: str, rows: str = "") -> None:
    """Add a format; functions as ``package.module:function``, what they do is in `Format`.

    Raises:
        VitaError: its name is taken.
    """
    FORMATS.add(name, Format(function, rows))


_HERE = __name__
for _name in ("coyo", "mmc4", "sharegpt4v"):
    register_format(_name, f"{_HERE}.{_name}:records")
register_format("m3it", f"{_HERE}.m3it:records", f"{_HERE}.m3it:rows")
for _name in ("art", "lsvt", "rects", "mtwi"):
    register_format(_name, f"{_HERE}.scene_text:{_name}", f"{_HERE}.scene_text:{_name}_rows")
register_format("sroie", f"{_HERE}.receipts:sroie", f"{_HERE}.receipts:sroie_rows")
register_format("poie", f"{_HERE}.receipts:poie")
register_format("kvqa", f"{_HERE}.questions:kvqa", f"{_HERE}.questions:kvqa_rows")
for _name in ("estvqa", "viquae", "metamathqa", "docreason", "unichart"):
    register_format(_name, f"{_HERE}.questions:{_name}")
for _name in ("cambrian", "cambrian_1375k", "cambrian_doc_1275k"):
    register_format(_name, f"{_HERE}.collections:{_name}")
for _name in ("idefics2", "llava_onevision"):
    register_format(_name, f"{_HERE}.collections:{_name}", f"{_HERE}.collections:{_name}_rows")
