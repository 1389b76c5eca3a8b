"""From the rows of public files to records, one file a format.

A format is a function from rows to records and rejects, in order and in bounded memory. A package
outside this one adds a format by calling `register_format` from its plugin
(`vita_train.plugins`).
"""

from __future__ import annotations

from vita_train.plugins import Registry

#: ``package.module:function`` by name.
FORMATS: Registry[str] = Registry("row format")


def register_format(name: str, function: str) -> None:
    """Add a format: ``function(rows) -> iterator of records and Rejected`` as
    ``package.module:function``; a row is ``(where, value)``.

    Raises:
        VitaError: its name is taken.
    """
    FORMATS.add(name, function)


for _name in ("coyo", "m3it", "mmc4", "sharegpt4v"):
    register_format(_name, f"vita_train.data.formats.{_name}:records")
