"""Damaged media of every format: each is used or rejected with a reason, and none costs more than
its share."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.helpers.data_world import recipe, turns
from tests.helpers.media_zoo import mutated, zoo
from vita_train.data.media.apart import Decoder
from vita_train.data.prepare.row_encoder import Example, RowEncoder, measure_settings
from vita_train.data.prepare.tokenizer import load_tokenizer, train_tokenizer
from vita_train.data.sources.reading import Reject, Rules
from vita_train.data.sources.source import RecordSource

GIGABYTE = 1 << 30


class Watched(Decoder):
    """Remembers the most memory that any of its processes has taken, and the longest time."""

    most = 0
    slowest = 0.0

    def close(self) -> None:
        """Look before the process goes."""
        self.look()
        super().close()

    def look(self) -> None:
        """Read the peak of the process that runs."""
        if self._running is not None:
            parent = self._running[0].pid
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
            lines = [
                line
                for pid in children
                for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            ]
            Watched.most = max(
                [Watched.most, *(int(line.split()[1]) * 1024 for line in lines if "VmHWM" in line)]
            )


def record(kind: str, number: int, name: str) -> dict[str, object]:
    key = kind
    media = {"audio": [name]} if kind == "audio" else {key: name, "set": "pics"}
    return {
        "id": f"{number}-{name}",
        "conversations": turns(f"<{key}>\nwhat is it?", "a test."),
        **media,
    }


def fuzz(at: Path, files: int, seed: int) -> Counter[str]:
    """Examine mutated files; return how many were used and rejected, by reason."""
    chance = random.Random(seed)
    whole = [
        (kind, path, path.read_bytes()) for kind, paths in zoo(at / "zoo").items() for path in paths
    ]
    rows = []
    for number in range(files):
        kind, path, content = whole[number % len(whole)]
        name = f"{number}.{path.name}"
        (at / name).write_bytes(mutated(content, chance))
        rows.append(record(kind, number, name))
    (at / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train_tokenizer(["what is it? a test.\n", "user\n", "assistant\n"] * 20, 400, at / "tokenizer")
    outcomes: Counter[str] = Counter()
    Watched.slowest = 0.0
    source = RecordSource("look", "train", at / "rows.jsonl", {"pics": at, "audio": at}, Rules())
    with Watched(measure_settings(recipe())) as decoder:
        encoder = RowEncoder(
            recipe(), load_tokenizer(at / "tokenizer"), "look", source.roots, decoder
        )
        for row, read in zip(rows, source.checked_rows(), strict=True):
            began = time.monotonic()
            result = encoder.encode_all([read])[0]
            Watched.slowest = max(Watched.slowest, time.monotonic() - began)
            decoder.look()
            assert result.id == row["id"]
            if isinstance(result, Reject):
                assert result.detail
                assert (
                    str(row["id"]).split("-", 1)[1] in result.detail or result.reason == "too long"
                ), result
                outcomes[result.reason] += 1
            else:
                assert isinstance(result, Example)
                outcomes["used"] += 1
    assert 0 < Watched.most < GIGABYTE
    assert outcomes.total() == files
    return outcomes


def test_every_whole_file_is_used_and_damaged_ones_are_used_or_rejected(tmp_path: Path) -> None:
    outcomes = fuzz(tmp_path, 300, 1)
    assert outcomes["used"] > 20
    assert (
        sum(
            count
            for reason, count in outcomes.items()
            if reason.startswith(("truncated", "unreadable"))
        )
        > 100
    )
    assert "cannot be examined" not in outcomes


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_damaged_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cannot be examined" not in fuzz(tmp_path, 10_000, 2)
