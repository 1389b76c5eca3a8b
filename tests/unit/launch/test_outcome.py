"""One error out of many ranks' reports."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from vita_train.errors import UserError
from vita_train.launch.outcome import explain, forget_outcomes, report_line


def _report(logs: Path, rank: int, code: int, what: str) -> None:
    (logs / f"rank-{rank}.error.json").write_text(
        json.dumps({"code": code, "what": what, "where": "", "remedy": ""})
    )


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ((138, 2), 2),
        ((138, 1), 1),
        ((143, 138), 138),
        ((1, 2), 2),
        ((143, 143), 143),
    ],
)
def test_the_cause_wins_over_its_consequences(
    tmp_path: Path, codes: tuple[int, int], expected: int
) -> None:
    for rank, code in enumerate(codes):
        _report(tmp_path, rank, code, f"code {code}")
    error = explain(tmp_path, "")
    assert error.exit_code == expected
    assert error.what == f"code {expected}"


def test_exit_codes_of_torchrun_count_when_no_rank_reported(tmp_path: Path) -> None:
    assert explain(tmp_path, "  exitcode  : 138 (pid: 7)\n").exit_code == 138
    assert "SIGSEGV" in str(explain(tmp_path, "  exitcode  : -11 (pid: 7)\n"))
    # The same program ends the same on the same processor: nobody is to try it again by itself.
    assert explain(tmp_path, "  exitcode  : -4 (pid: 7)\n").exit_code == 1
    assert "ATEN_CPU_CAPABILITY" in str(explain(tmp_path, "  exitcode  : -4 (pid: 7)\n"))
    assert explain(tmp_path, "  exitcode  : 1 (pid: 7)\n").exit_code == 1


def test_half_written_report_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "rank-0.error.json").write_text('{"code": 2, "wh')
    (tmp_path / "rank-0.log").write_text("a\nlast words\n")
    error = explain(tmp_path, "exitcode  : 1 (pid: 7)")
    assert error.exit_code == 1
    assert "last words" in str(error)
    assert error.where == str(tmp_path / "rank-0.log")


def test_reports_of_an_earlier_attempt_are_forgotten(tmp_path: Path) -> None:
    _report(tmp_path, 0, 2, "old")
    forget_outcomes(tmp_path)
    assert explain(tmp_path, "").exit_code == 1


def test_an_error_that_no_file_could_take_comes_through_the_job_s_output(tmp_path: Path) -> None:
    said = report_line(UserError("no space left on the disk", where="/x", remedy="free some"))
    error = explain(tmp_path, f"W1129 torchrun\n{said}\nexitcode : 2 (pid: 7)\n")
    assert (type(error), error.what, error.where, error.remedy) == (
        UserError,
        "no space left on the disk",
        "/x",
        "free some",
    )


@pytest.mark.parametrize(
    ("blocks", "inodes", "code", "fact"),
    [
        (0, 100, "VT-USE-104", "space"),
        (100, 0, "VT-USE-103", "inodes"),
        (100, 100, "VT-FAIL-003", ""),
    ],
)
def test_a_full_disk_is_looked_for_before_a_job_is_said_to_have_failed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    blocks: int,
    inodes: int,
    code: str,
    fact: str,
) -> None:
    found = SimpleNamespace(f_bavail=blocks, f_frsize=4096, f_favail=inodes, f_files=1000)
    monkeypatch.setattr("vita_train.storage.disk_errors.os.statvfs", lambda path: found)
    error = explain(tmp_path, "no word of it")
    assert error.code == code
    assert fact in error.what
