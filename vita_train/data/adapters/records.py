"""Corpora whose files hold records as we read them, such as LLaVA's and ShareGPT4V's: nothing is
converted, and nothing is copied."""

from __future__ import annotations

from vita_train.data.adapters.base import Input, missing
from vita_train.data.sources.registry import Dataset, SplitSource


def adapt(given: Input) -> Dataset:
    """Return the dataset: the entry's file of records as its train split.

    Raises:
        DataError: the file is not there.
    """
    (name,) = given.entry.records_from
    path = given.data / name
    if not path.is_file():
        raise missing(path)
    roots = {key: given.root(key) for key in given.entry.roots}
    return Dataset(
        task=str(given.entry.task),
        splits={"train": SplitSource(records=str(path.absolute()), roots=roots)},
    )
