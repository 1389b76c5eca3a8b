"""A fetch that is killed at any moment goes on where it was; twenty kills are in
``benchmarks/fetch_kills.py``."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.fetch_kills import killed_fetch


def test_a_killed_fetch_goes_on_where_it_was(tmp_path: Path) -> None:
    outcome = killed_fetch(tmp_path / "to", kills=2, files=4, size=1_500_000)
    assert outcome.kills == 2
    assert outcome.again == 0
