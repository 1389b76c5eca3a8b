"""The page of a run that goes on: refreshed, seldom, and never in the way of training."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.fabricated_run import fabricate_run
from vita_train.recipe.load import load_recipe
from vita_train.report import live
from vita_train.report.live import LivePage
from vita_train.runs.run import Run


def _page(run: Path) -> Path:
    return run / "report" / "report.html"


def _opened(run: Path) -> Run:
    return Run(load_recipe("smoke", [f"storage.root={run.parent}"]), run.name)


def test_the_page_is_written_anew_at_the_end_of_a_stage_and_seldom_before(tmp_path: Path) -> None:
    run = fabricate_run(tmp_path, until="1.1")
    show = LivePage(_opened(run))
    show()
    show(last=True)  # waits for the first too
    assert "3 of 10 stages are done" in _page(run).read_text()
    _page(run).unlink()
    show()
    assert not _page(run).exists(), "a page was written just now"
    show(last=True)
    assert _page(run).exists()


def test_a_page_that_cannot_be_written_costs_a_line_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> str:
        raise RuntimeError("no such template")

    monkeypatch.setattr(live, "build_report", broken)
    LivePage(_opened(fabricate_run(tmp_path)))(last=True)
    assert "the report could not be refreshed: no such template" in capsys.readouterr().err
