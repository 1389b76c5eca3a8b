"""A hostile server, and fetches from it that do not wait long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.hostile_http import HostileServer, hostile_http
from vita_train.data.catalogue.load import Catalogue
from vita_train.data.fetch.limits import Limits
from vita_train.data.fetch.run import Fetched, fetch
from vita_train.data.fetch.source import parse_sources

QUICK = Limits(tries=6, first_pause=0.01, longest_pause=0.05)
Fetch = Callable[..., Fetched]


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with hostile_http() as world:
        yield world


@pytest.fixture
def bring(tmp_path: Path) -> Fetch:
    """Fetch addresses to ``tmp_path/to``."""

    def run(*sources: str, unpack: bool = False, **settings: object) -> Fetched:
        nothing = Catalogue({}, {})
        return fetch(
            parse_sources(sources, nothing, unpack),
            tmp_path / "to",
            catalogue=nothing,
            limits=QUICK,
            **settings,  # type: ignore[arg-type]
        )

    return run
