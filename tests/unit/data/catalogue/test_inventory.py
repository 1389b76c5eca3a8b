"""What was fetched against what was published: names, numbers, rows and columns."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from vita_train.cli.main import build_app
from vita_train.data.catalogue.expected import Expected, take_inventory
from vita_train.data.catalogue.load import load_catalogue
from vita_train.data.formats.m3it import SUBSETS
from vita_train.errors import DataError, UserError

CATALOGUE = load_catalogue()
#: Never published, by its authors' own list.
ABSENT = [
    *(3218, 3267, 5064, 5146, 7119, 8991, 9750),
    *(11899, 15127, 15252, 16996, 17369, 17499, 17818),
]


def expected(name: str) -> Expected:
    found = CATALOGUE[name].expected
    assert found is not None
    return found


def touch(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_v2_mmc4s_23_085_shards_and_its_fourteen_absentees(tmp_path: Path) -> None:
    names = [f"mmc4/docs_shard_{i}_v3.jsonl.zip" for i in range(23_099) if i not in ABSENT]
    touch(tmp_path, names)
    found = take_inventory(expected("mmc4-core"), tmp_path)
    assert (found.files, list(found.absent), found.faults) == (23_085, ABSENT, ())
    (tmp_path / names[7]).unlink()
    (tmp_path / names[9]).write_bytes(b"")
    touch(tmp_path, ["mmc4/docs_shard_23099_v3.jsonl.zip"])
    odd = take_inventory(expected("mmc4-core"), tmp_path)
    assert list(odd.absent) == ABSENT
    assert [("missing: 7" in fault, "23099" in fault, "_9_" in fault) for fault in odd.faults] == [
        *((True, False, False), (False, True, False), (False, False, True))
    ]


def parquet(path: Path, rows: int, columns: tuple[str, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name: [0] * rows for name in columns}), path)


def test_v7_rows_of_coyo_come_from_footers_and_lacking_columns_are_named(tmp_path: Path) -> None:
    real = expected("coyo-700m")
    assert (real.count, real.rows) == (128, 746_972_269)
    for number in range(4):
        parquet(tmp_path / f"coyo/data/part-{number:05d}.parquet", 10 + number, real.columns)
    small = real.model_copy(update={"count": 4, "rows": 46})
    assert take_inventory(small, tmp_path).faults == ()
    assert take_inventory(small, tmp_path).rows == 46
    parquet(tmp_path / "coyo/data/part-00001.parquet", 11, real.columns[:-1])
    (tmp_path / "coyo/data/part-00003.parquet").write_bytes(b"PAR1 cut off")
    faults = "; ".join(take_inventory(small, tmp_path).faults)
    assert "part-00001.parquet: lacks the columns clip_similarity_vitl14" in faults
    assert "part-00003.parquet: is no readable table" in faults
    assert "33 rows are there, 46 were published" in faults


def test_v12_only_data_folders_of_flan_count_and_their_rows_are_added(tmp_path: Path) -> None:
    for number, folder in enumerate(("cot_fsopt_data", "niv2_zsopt_data", "other")):
        parquet(tmp_path / f"flan/{folder}/0.parquet", 5 + number, ("inputs", "targets"))
    found = take_inventory(expected("flan"), tmp_path)
    assert (found.files, found.rows, found.faults) == (2, 11, ())


def test_v14_m3its_14_train_splits_and_what_stands_beside_them(tmp_path: Path) -> None:
    assert set(expected("m3it").names) == set(SUBSETS)
    touch(tmp_path, [f"m3it/data/x/{name}/train.jsonl" for name in (*SUBSETS[1:], "coco")])
    found = take_inventory(expected("m3it"), tmp_path)
    assert found.others == ("coco",)
    assert found.faults == (f"{SUBSETS[0]} is not there",)


def test_the_command_ends_with_an_error_where_something_is_missing(tmp_path: Path) -> None:
    command = ["data", "inventory", "mmc4-core", "--to", str(tmp_path)]
    result = CliRunner().invoke(build_app(), command)
    assert isinstance(result.exception, DataError)
    assert "3218" in result.output
    result = CliRunner().invoke(build_app(), ["data", "inventory", "scienceqa", "--to", "x"])
    assert isinstance(result.exception, UserError)


@pytest.mark.parametrize("files", ["a/*.json", "a/{}.json"])
def test_numbers_go_with_their_place(files: str) -> None:
    numbers = None if "{}" in files else (0, 1)
    with pytest.raises(ValueError, match="numbers"):
        Expected(files=files, numbers=numbers)
