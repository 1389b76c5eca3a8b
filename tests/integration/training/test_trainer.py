"""A stage that is killed, stopped or stuck, on real ranks."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.toy import ToyOrder
from tests.integration.training import ranks
from vita_train.errors import EXIT_REFUSED, EXIT_RETRYABLE, EXIT_STOPPED

# Two ranks on a machine that does other work too may take minutes.
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks that nothing disturbed."""
    root = tmp_path_factory.mktemp("whole")
    code, output = ranks.train(root, {})
    assert code == 0, output[-4000:]
    return root


def test_killed_run_goes_on_with_the_same_samples_and_losses(whole: Path, tmp_path: Path) -> None:
    code, output = ranks.train(tmp_path, {"fault": {"kind": "kill", "step": 4, "rank": 1}})
    assert code != 0
    assert max(ranks.losses(tmp_path)) < 8
    # The other rank names the lost peer, unless torchrun ended it first.
    path = tmp_path / "run" / "1.2" / "logs" / "rank-0.error.json"
    assert not path.exists() or ranks.outcome(tmp_path, 0)["code"] == EXIT_RETRYABLE, output[-4000:]
    code, output = ranks.train(tmp_path, {})
    assert code == 0, output[-4000:]
    assert ranks.losses(tmp_path) == ranks.losses(whole)
    assert ranks.batches(tmp_path) == ranks.batches(whole)


def test_one_rank_goes_on_from_two_with_the_same_global_batches(
    whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    for key in ("step-00000006", "step-00000008"):  # as if the run had ended after step 4
        (tmp_path / "run" / "1.2" / "committed" / f"{key}.json").unlink()
    code, output = ranks.train(tmp_path, {"accumulate": 2}, ranks=1)
    assert code == 0, output[-4000:]
    assert ranks.batches(tmp_path) == ranks.batches(whole)
    # Only the noise of the toy, which ranks draw for themselves, differs.
    assert ranks.losses(tmp_path) == pytest.approx(ranks.losses(whole), rel=0.02)


def test_samples_passed_over_are_committed_and_resume_is_exact(whole: Path, tmp_path: Path) -> None:
    lost = [ToyOrder().ids(step)[place] for step, place in ((1, 0), (5, 3))]
    visits = [name for step in range(8) for name in ToyOrder().ids(step) if name in lost]
    case = {"unreadable": lost, "most_unreadable": 2}
    code, output = ranks.train(tmp_path / "calm", case)
    assert code == 0, output[-4000:]
    assert output.count("passed over: ") == 2
    counted = [ranks.counters(tmp_path / "calm", rank) for rank in (0, 1)]
    assert [sorted(one["unreadable"]) for one in counted] == [sorted(lost)] * 2
    assert counted[0]["samples"] == 8 * 8 - len(visits)
    assert ranks.batches(tmp_path / "calm") == ranks.batches(whole)  # as planned
    code, _ = ranks.train(tmp_path / "killed", {**case, "fault": {"kind": "kill", "step": 4}})
    assert code != 0
    code, output = ranks.train(tmp_path / "killed", case)
    assert code == 0, output[-4000:]
    assert ranks.losses(tmp_path / "killed") == ranks.losses(tmp_path / "calm")
    assert ranks.counters(tmp_path / "killed", 0)["unreadable"] == counted[0]["unreadable"]


def test_more_than_may_be_passed_over_end_the_stage(tmp_path: Path) -> None:
    lost = ToyOrder().ids(1)[:2]
    code, output = ranks.train(tmp_path, {"unreadable": lost, "most_unreadable": 1}, ranks=1)
    assert code == EXIT_REFUSED, output[-4000:]
    assert ranks.outcome(tmp_path, 0)["error"] == "VT-DATA-078"


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine",
    [
        {"kind": "fsdp2"},
        {"kind": "deepspeed", "zero": 0},
        {"kind": "deepspeed", "zero": 2},
        {"kind": "deepspeed", "zero": 3},
    ],
    ids=lambda engine: f"{engine['kind']}{engine.get('zero', '')}",
)
def test_sharded_engines_resume_exactly_and_on_other_ranks(
    engine: dict[str, Any], tmp_path: Path
) -> None:
    code, output = ranks.train(tmp_path / "whole", {"engine": engine, "stage": {"steps": 6}})
    assert code == 0, output[-4000:]
    code, _ = ranks.train(
        tmp_path / "killed",
        {"engine": engine, "stage": {"steps": 6}, "fault": {"kind": "kill", "step": 3, "rank": 0}},
    )
    assert code != 0
    shutil.copytree(tmp_path / "killed", tmp_path / "other")
    code, output = ranks.train(tmp_path / "killed", {"engine": engine, "stage": {"steps": 6}})
    assert code == 0, output[-4000:]
    assert ranks.losses(tmp_path / "killed") == ranks.losses(tmp_path / "whole")
    code, output = ranks.train(
        tmp_path / "other", {"engine": engine, "stage": {"steps": 6}, "accumulate": 2}, ranks=1
    )
    assert code == 0, output[-4000:]
    assert ranks.batches(tmp_path / "other") == ranks.batches(tmp_path / "whole")
    assert ranks.losses(tmp_path / "other") == pytest.approx(
        ranks.losses(tmp_path / "whole"), rel=1e-3
    )


def test_sigterm_saves_after_the_step_and_exits_143(tmp_path: Path) -> None:
    code, output = ranks.train(tmp_path, {"fault": {"kind": "term", "step": 2}}, ranks=1)
    assert code == EXIT_STOPPED, output[-4000:]
    assert "stopped after step 4" in output
    assert (tmp_path / "run" / "1.2" / "committed" / "step-00000004.json").exists()
    assert ranks.outcome(tmp_path, 0)["code"] == EXIT_STOPPED


def test_stuck_rank_makes_every_rank_print_its_stack(tmp_path: Path) -> None:
    code, output = ranks.train(
        tmp_path, {"timeout": 8.0, "fault": {"kind": "stall", "step": 2, "rank": 1}}
    )
    assert code != 0
    assert output.count("took longer than 8 s; samples of this rank") == 2, output
    assert "after_step" in output  # where rank 1 stood
    assert "toy/train/" in output
    assert {ranks.outcome(tmp_path, rank)["code"] for rank in (0, 1)} == {EXIT_RETRYABLE}
