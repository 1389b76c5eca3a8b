"""Activation checkpointing and FSDP2 go by one rule for what a block is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.training import ranks

pytestmark = pytest.mark.timeout(600)


def test_what_is_sharded_by_itself_is_what_is_computed_again(tmp_path: Path) -> None:
    code, output = ranks.run("blocks_worker", str(tmp_path / "units.json"), ranks=1)
    assert code == 0, output[-4000:]
    found = json.loads((tmp_path / "units.json").read_text())
    assert found["sharded"] == found["checkpointed"]
    assert {name.rpartition(".")[0] for name in found["sharded"]} == {
        "llm.model.layers",
        "vision.model.encoder.layer",
        "audio_encoder.encoders",
        "speech_decoder.nar_layers",
        "speech_decoder.ar_layers",
    }
    # Nothing is in float32 and whole but the block that is being cut; the root comes last
    *blocks, root = found["widened"]
    assert all(0 < whole == own for whole, own in blocks)
    assert root[0] == root[1]
    assert found["moved"] == [], "not as a whole"
