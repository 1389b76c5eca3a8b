"""What preflight keeps for the next time may be lost, and never stops a command."""

from __future__ import annotations

from pathlib import Path

import pytest

from vita_train.preflight.run import _counted_before

COUNTED = '{"digest": "d", "counted": {"modules": {}, "adapters": {}}}'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "\0\0",
        '{"digest": "d"}',
        COUNTED[:-3],
        '{"digest": "d", "counted": {}}',
        COUNTED.replace('"d"', '"e"'),
    ],
)
def test_a_cache_that_cannot_be_read_counts_as_absent(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model.json"
    assert _counted_before(path, "d") is None
    path.write_text(text)
    assert _counted_before(path, "d") is None
    path.write_text(COUNTED)
    assert _counted_before(path, "d") == {"modules": {}, "adapters": {}}
