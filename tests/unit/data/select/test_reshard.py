"""Records cut anew: sizes, tails and orders, exact and the same each time."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tests.helpers.errors import raises_code
from vita_train.cli.main import build_app
from vita_train.data.select.reshard import LEDGER, ReshardSettings, reshard
from vita_train.errors import UserError


def source(folder: Path, total: int, files: int = 3, **fields: Any) -> Path:
    """Write records with the numbers from 0 on, over several files."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        rows = range(number * total // files, (number + 1) * total // files)
        text = "".join(json.dumps({"id": row, **fields}) + "\n" for row in rows)
        (folder / f"{number}.jsonl").write_text(text)
    return folder


def shards(folder: Path) -> list[list[int]]:
    """Return the ids of each shard, and check what is said of it."""
    ledger = json.loads((folder / LEDGER).read_text())
    found = []
    for entry in ledger["shards"]:
        path = folder / entry["name"]
        rows = [json.loads(line)["id"] for line in path.read_text().splitlines()]
        assert len(rows) == entry["rows"] == int(path.with_suffix(".count").read_text())
        assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]
        found.append(rows)
    assert ledger["written"] == sum(map(len, found))
    assert ledger["read"] == ledger["written"] + ledger["dropped"] + ledger["unreadable"]
    names = {Path(entry["name"]).stem for entry in ledger["shards"]}
    written = {f"{name}{ending}" for name in names for ending in (".jsonl", ".count")}
    assert {path.name for path in folder.iterdir()} == {LEDGER, *written}
    return found


def test_v10_the_tail_of_25_000_rows_is_kept_or_in_the_ledger(tmp_path: Path) -> None:
    rows = source(tmp_path / "rows", 25_000)
    reshard([rows], tmp_path / "kept", ReshardSettings(rows=12_440))
    found = shards(tmp_path / "kept")
    assert list(map(len, found)) == [12_440, 12_440, 120]
    assert [row for shard in found for row in shard] == list(range(25_000))
    counts = reshard([rows], tmp_path / "cut", ReshardSettings(rows=12_440, keep_tail=False))
    assert list(map(len, shards(tmp_path / "cut"))) == [12_440, 12_440]
    assert (counts.written, counts.dropped) == (24_880, 120)


@pytest.mark.parametrize("total", [1, 127, 128, 1000])
def test_v16_128_shards_differ_by_at_most_a_row_and_hold_every_row(
    tmp_path: Path, total: int
) -> None:
    rows = source(tmp_path / "rows", total)
    reshard([rows], tmp_path / "out", ReshardSettings(shards=128, seed=1))
    found = shards(tmp_path / "out")
    sizes = set(map(len, found))
    assert len(found) == 128
    assert max(sizes) - min(sizes) <= 1
    assert Counter(row for shard in found for row in shard) == Counter(range(total))


def test_v16_a_seed_is_one_order_whatever_fits_into_memory(tmp_path: Path) -> None:
    rows = source(tmp_path / "rows", 3000)
    made = {}
    # Two hundred bytes are too few for a bucket of so many rows: those are cut once more.
    for name, seed, memory in (
        ("a", 1, 1 << 30),
        ("b", 1, 20_000),
        ("c", 2, 1 << 30),
        ("d", 1, 200),
    ):
        reshard([rows], tmp_path / name, ReshardSettings(shards=4, seed=seed), memory=memory)
        made[name] = [row for shard in shards(tmp_path / name) for row in shard]
    assert made["a"] == made["b"] == made["d"]
    assert made["a"] != made["c"]
    # No stretch of the input stays together: each quarter has about a quarter of each file.
    for quarter in range(4):
        part = made["a"][quarter * 750 : (quarter + 1) * 750]
        assert 150 < sum(row < 1000 for row in part) < 350


def test_v16_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    limit, peaks = 1_000_000, []
    for total in (10_000, 50_000):  # 10 and 50 MB
        rows = source(tmp_path / f"rows{total}", total, text="x" * 1000)
        tracemalloc.start()
        settings = ReshardSettings(shards=8, seed=1)
        reshard([rows], tmp_path / f"out{total}", settings, memory=limit)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + limit
    assert peaks[1] < 5_000_000


def test_what_is_no_record_is_counted_and_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    rows = source(tmp_path / "rows", 5, files=1)
    with (rows / "0.jsonl").open("a") as stream:
        stream.write("no JSON\n[1]\n")
    counts = reshard([rows], tmp_path / "out", ReshardSettings(rows=2))
    assert (counts.read, counts.written, counts.unreadable) == (7, 5, 2)
    reshard([rows], tmp_path / "out", ReshardSettings(rows=5))  # its own are replaced
    assert len(shards(tmp_path / "out")) == 1
    before = sorted(path.name for path in rows.iterdir())
    with raises_code(UserError, "VT-USE-300", str(rows)):
        reshard([rows], rows, ReshardSettings(rows=2))
    with raises_code(UserError, "VT-USE-300", str(tmp_path / "out")):
        reshard([tmp_path / "out"], tmp_path / "out", ReshardSettings(rows=2))
    assert sorted(path.name for path in rows.iterdir()) == before
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    with raises_code(UserError, "VT-USE-298", "a.parquet"):
        reshard([tmp_path / "a.parquet"], tmp_path / "t", ReshardSettings(rows=2))
    (tmp_path / "none.jsonl").write_text("")
    with raises_code(UserError, "VT-USE-299", "none.jsonl"):
        reshard([tmp_path / "none.jsonl"], tmp_path / "t", ReshardSettings(rows=2))
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    "options", [[], ["--rows", "2", "--shards", "2"], ["--shards", "2", "--drop-tail"]]
)
def test_the_command_wants_one_of_rows_and_shards(tmp_path: Path, options: list[str]) -> None:
    rows = source(tmp_path / "rows", 5)
    command = ["data", "reshard", str(rows), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(build_app(), [*command, *options])
    assert isinstance(result.exception, UserError)
    result = CliRunner().invoke(build_app(), [*command, "--shards", "2", "--seed", "3"])
    assert result.exit_code == 0
    assert len(shards(tmp_path / "out")) == 2
