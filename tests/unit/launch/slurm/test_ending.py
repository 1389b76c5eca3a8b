"""Why a job ended, from what its nodes and the controller say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from vita_train.errors import PeerLostError, StoppedError, UserError, VitaError
from vita_train.launch.slurm.controller import JobState, parse_job
from vita_train.launch.slurm.ending import ending
from vita_train.launch.slurm.node import outcome_file

SHOWN = (
    "JobId=2 JobName=vita-r-1.1 JobState=FAILED Reason=NonZeroExitCode Requeue=1 Restarts=3 "
    "ExitCode=137:0 PreemptTime=2026-01-02T03:04:05 NodeList=n[0-1] Comment=JobState=RUNNING "
)


def state(name: str, code: int = 0, signal: int = 0, *, preempted: bool = False) -> JobState:
    return JobState(name, "", code, signal, 0, "n[0-1]", preempted)


def said(folder: Path, node: int, code: int, restart: int = 0) -> None:
    report = {"code": code, "what": f"node {node} says {code}", "where": "here", "remedy": ""}
    outcome_file(folder, 7, restart, node).write_text(json.dumps(report))


def test_a_job_is_read_from_its_line() -> None:
    job = parse_job(SHOWN.replace("Comment=JobState=RUNNING ", ""))
    assert job == JobState("FAILED", "NonZeroExitCode", 137, 0, 3, "n[0-1]", True)
    assert job.is_over


@pytest.mark.parametrize("name", ["PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED"])
def test_a_job_that_may_go_on_is_not_over(name: str) -> None:
    assert not state(name).is_over


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        (state("NODE_FAIL"), PeerLostError),
        (state("PREEMPTED"), PeerLostError),
        (state("FAILED", 137), PeerLostError),
        (state("FAILED", 0, 9), PeerLostError),
        (state("FAILED", 1), VitaError),
        (state("FAILED", 143), PeerLostError),
        (state("OUT_OF_MEMORY"), VitaError),
        (state("CANCELLED"), StoppedError),
        (state("TIMEOUT"), StoppedError),
    ],
    ids=str,
)
def test_where_no_node_spoke_the_controller_does(
    tmp_path: Path, end: JobState, kind: type[VitaError]
) -> None:
    assert type(ending(7, end, tmp_path, 2).failure) is kind


def test_a_refusal_is_the_reason_whatever_its_peers_say(tmp_path: Path) -> None:
    said(tmp_path, 0, 138)
    said(tmp_path, 1, 2)
    failure = ending(7, state("FAILED", 143), tmp_path, 2).failure
    assert type(failure) is UserError
    assert failure.what == "node 1 says 2"


def test_what_was_said_before_a_requeue_does_not_count(tmp_path: Path) -> None:
    said(tmp_path, 0, 2, restart=0)
    again = JobState("NODE_FAIL", "", 0, 0, 1, "n[0-1]")
    assert type(ending(7, again, tmp_path, 2).failure) is PeerLostError


def test_only_all_nodes_together_meet_the_limit(tmp_path: Path) -> None:
    said(tmp_path, 0, 143)
    assert not ending(7, state("FAILED", 137), tmp_path, 2).met_time_limit
    said(tmp_path, 1, 143)
    assert ending(7, state("FAILED", 143), tmp_path, 2).met_time_limit
    assert not ending(7, state("CANCELLED"), tmp_path, 2).met_time_limit
    endless = parse_job(SHOWN.replace("Restarts=3", "Restarts=0 TimeLimit=UNLIMITED"))
    told = ending(7, replace(endless, code=143, is_preempted=False), tmp_path, 2)
    assert not told.met_time_limit
    assert type(told.failure) is PeerLostError
    preempted = ending(7, state("FAILED", 143, preempted=True), tmp_path, 2)
    assert preempted.was_preempted
    assert not preempted.met_time_limit
