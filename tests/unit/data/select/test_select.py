"""COYO's best pairs and FLAN's evenly spaced rows, by whole numbers."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.errors import raises_code
from vita_train.data.select import even
from vita_train.data.select.even import even_positions, flan_records, flan_tables
from vita_train.data.select.top import TopSettings, select_top
from vita_train.errors import DataError, UserError


def shard(path: Path, sums: list[float | None]) -> Path:
    rows = range(len(sums))
    table = pa.table(
        {
            "id": pa.array(rows, pa.int64()),
            "url": [f"http://x/{row}" for row in rows],
            "text": [f"t{row}" for row in rows],
            "clip_similarity_vitb32": pa.array(sums, pa.float64()),
            "clip_similarity_vitl14": pa.array([0.0] * len(sums), pa.float64()),
        }
    )
    pq.write_table(table, path)
    return path


def ids(path: Path) -> list[int]:
    return pq.read_table(path)["id"].to_pylist()


def test_v8_the_top_share_of_each_shard_ties_to_the_earlier_row(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.parquet", [0.7, 0.9, 0.65, 0.9, 0.61, 0.9, 0.5, None, 0.6, 0.1, 0.2])
    found = select_top([path], tmp_path / "out", TopSettings(share=0.2))
    assert ids(tmp_path / "out" / "a.parquet") == [1, 3]  # int(0.2 * 11), the third 0.9 is later
    assert (found["a.parquet"].kept, found["a.parquet"].cutoff) == (2, 0.9)
    noted = json.loads((tmp_path / "out" / "selection.json").read_text())
    assert noted["shards"]["a.parquet"] == {"rows": 11, "kept": 2, "cutoff": 0.9}
    assert pq.read_table(tmp_path / "out" / "a.parquet").column_names == [
        *("id", "url", "text", "clip_sim")
    ]


def test_a_table_that_is_read_is_not_written_over(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.parquet", [0.9] * 5)
    before = path.read_bytes()
    with raises_code(UserError, "VT-USE-291"):
        select_top([path], tmp_path, TopSettings(share=0.2))
    assert path.read_bytes() == before


def test_v8_the_threshold_is_strict_and_too_few_are_refused_by_name(tmp_path: Path) -> None:
    path = shard(tmp_path / "low.parquet", [0.6, 0.6, 0.7, 0.1])
    with raises_code(DataError, "VT-DATA-093", "low.parquet", "0.6"):
        select_top([path], tmp_path / "out", TopSettings(share=0.5))
    select_top([path], tmp_path / "out", TopSettings(share=0.25))
    assert ids(tmp_path / "out" / "low.parquet") == [2]


def test_v8_a_global_share_differs_from_that_of_each(tmp_path: Path) -> None:
    paths = [
        shard(tmp_path / "a.parquet", [0.9, 0.8, 0.95, 0.7]),
        shard(tmp_path / "b.parquet", [0.61, 0.62, 0.1, 0.2]),
    ]
    select_top(paths, tmp_path / "each", TopSettings(share=0.25))
    assert [ids(tmp_path / "each" / path.name) for path in paths] == [[2], [1]]
    select_top(paths, tmp_path / "all", TopSettings(share=0.25, scope="global"))
    assert [ids(tmp_path / "all" / path.name) for path in paths] == [[0, 2], []]


def test_v7_missing_columns_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1], "url": ["x"]}), tmp_path / "a.parquet")
    columns = "clip_similarity_vitb32, clip_similarity_vitl14, text"
    with raises_code(DataError, "VT-DATA-091", "a.parquet", columns):
        select_top([tmp_path / "a.parquet"], tmp_path / "out", TopSettings())


@pytest.mark.parametrize(
    ("total", "count"), [(10, 4), (10, 10), (378_000_000, 1_000_000), (2**24 + 1, 99_991)]
)
def test_v13_positions_are_exact(total: int, count: int) -> None:
    found = list(even_positions(total, count))
    assert len(found) == count
    assert (found[0], found[-1]) == (0, total - 1)
    steps = {after - before for before, after in pairwise(found)}
    least = (total - 1) // (count - 1)
    assert steps <= {least, least + 1}
    assert min(steps) >= 1


@pytest.mark.parametrize(("total", "count"), [(5, 6), (5, 1), (0, 2)])
def test_v13_what_cannot_be_spaced_is_refused(total: int, count: int) -> None:
    with pytest.raises(UserError):
        even_positions(total, count)


def test_v12_v13_only_data_folders_and_only_row_groups_with_a_place_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("b_data", "a_data", "other"):
        (tmp_path / folder).mkdir()
        for part in range(2):
            rows = [f"{folder}{part}-{row}" for row in range(50)]
            answers = ["" if text == "a_data0-0" else text for text in rows]
            table = pa.table({"inputs": rows, "targets": answers})
            pq.write_table(table, tmp_path / folder / f"{part}.parquet", row_group_size=10)
    read: list[int] = []
    real = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_group",
        lambda self, group, **kw: read.append(group) or real(self, group, **kw),
    )
    tables = flan_tables(tmp_path)
    assert [f"{path.parent.name}/{path.name}" for path in tables] == [
        *("a_data/0.parquet", "a_data/1.parquet", "b_data/0.parquet", "b_data/1.parquet")
    ]
    found = list(flan_records(tables, 5))
    expected = [tables[place // 50] for place in even_positions(200, 5)]
    assert isinstance(found[0], even.Rejected)
    assert found[0].reason == "empty answer"
    values = [one["conversations"][0]["value"] for one in found[1:] if isinstance(one, dict)]
    assert (
        values
        == [
            f"{path.parent.name}{path.stem}-{place % 50}"
            for path, place in zip(expected, even_positions(200, 5), strict=True)
        ][1:]
    )
    assert len(read) == 5  # of 20 row groups
