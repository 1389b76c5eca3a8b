"""Failures as Kubernetes shows them, and the reason a user is told. Objects are cut down to what
matters."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from vita_train.errors import EXIT_FAILED, EXIT_REFUSED, EXIT_RETRYABLE
from vita_train.launch.kubernetes.failures import Failure, Reason, blocked, explain, lost
from vita_train.launch.kubernetes.monitor import belongs
from vita_train.launch.kubernetes.state import JobState, Phase

FAILED = JobState(
    Phase.FAILED, "PyTorchJobFailed", "PyTorchJob failed because 1 Worker replica(s) failed."
)


def _ended(name: str, code: int, message: str = "", reason: str = "Error") -> dict[str, Any]:
    state = {"terminated": {"exitCode": code, "reason": reason, "message": message}}
    return {
        "metadata": {"name": name},
        "status": {"phase": "Failed", "containerStatuses": [{"state": state}]},
    }


def _words(code: int, what: str, *, where: str = "", remedy: str = "", tail: str = "") -> str:
    return json.dumps(
        {"code": code, "what": what, "where": where, "remedy": remedy, "tails": {"rank-3": tail}}
    )


def _waiting(name: str, reason: str, message: str = "") -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "status": {
            "containerStatuses": [{"state": {"waiting": {"reason": reason, "message": message}}}]
        },
    }


def _told(name: str, **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "status": status}


DISRUPTED = [
    {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "PreemptionByScheduler",
        "message": "by high",
    }
]
CASES = [
    (
        _ended("p", 2, _words(2, "no images in vqa", where="recipe.yaml:7", remedy="name another")),
        Reason.USER_ERROR,
    ),
    (_ended("p", 137, reason="OOMKilled"), Reason.OOM),
    (
        _ended(
            "p", 1, _words(1, "the job failed", tail="torch.OutOfMemoryError: CUDA out of memory.")
        ),
        Reason.OOM,
    ),
    (_ended("p", 137), Reason.INFRA),
    (_ended("p", 138, _words(138, "NCCL error: remote process exited")), Reason.NCCL),
    (_ended("p", 138, _words(138, "a step hung")), Reason.INFRA),
    (_ended("p", 143, _words(143, "stopped as asked")), Reason.PREEMPTED),
    (_ended("p", 1, _words(1, "the job failed", tail="ValueError: shapes")), Reason.CRASH),
    (_ended("p", 1, "Traceback\nValueError: shapes"), Reason.CRASH),
    # argparse and shells end with 2 as well; only our own entry's refusal is the user's.
    (_ended("p", 2, "sh: 1: not found"), Reason.CRASH),
    (_told("p", conditions=DISRUPTED), Reason.PREEMPTED),
    (
        _told("p", reason="Evicted", message="The node was low on resource: memory."),
        Reason.PREEMPTED,
    ),
    (_told("p", reason="NodeLost"), Reason.INFRA),
    (_waiting("p", "ImagePullBackOff", "Back-off pulling image"), Reason.IMAGE),
    (_waiting("p", "CreateContainerConfigError", 'secret "vita-s3" not found'), Reason.USER_ERROR),
]


@pytest.mark.parametrize(("pod", "reason"), CASES)
def test_one_pod_says_why(pod: dict[str, Any], reason: Reason) -> None:
    failure = explain(FAILED, [pod])
    assert failure.reason == reason
    assert failure.where.startswith("p")
    codes = {
        Reason.USER_ERROR: EXIT_REFUSED,
        Reason.PREEMPTED: EXIT_RETRYABLE,
        Reason.NCCL: EXIT_RETRYABLE,
        Reason.INFRA: EXIT_RETRYABLE,
    }
    assert failure.error().exit_code == codes.get(reason, EXIT_FAILED)


def test_pods_that_were_stopped_because_one_was_killed_do_not_pass_for_preempted() -> None:
    pods = [_ended("master-0", 143, _words(143, "stopped as asked")), _ended("worker-0", 137)]
    for order in (pods, pods[::-1]):
        failure = explain(FAILED, order)
        assert (failure.reason, failure.where) == (Reason.INFRA, "worker-0"), "it uses up a restart"
    disrupted = [pods[0], _told("worker-0", conditions=DISRUPTED)]
    assert explain(FAILED, disrupted).reason == Reason.PREEMPTED


def test_the_cause_is_told_and_not_its_consequences_with_every_ranks_last_lines() -> None:
    pods = [
        _ended("master-0", 138, _words(138, "a peer was lost", tail="gloo: connection closed")),
        _ended(
            "worker-0",
            2,
            _words(2, "no images", where="x.yaml:7", remedy="name another", tail="refused"),
        ),
        _ended("worker-1", 143, _words(143, "stopped")),
    ]
    for order in (pods, pods[::-1]):
        failure = explain(FAILED, order)
        assert (failure.reason, failure.where) == (Reason.USER_ERROR, "worker-0: x.yaml:7")
        assert failure.tails["master-0/rank-3"] == "gloo: connection closed"
        text = str(failure.error())
        assert "name another" in text
        assert "gloo: connection closed" in text


def test_a_pod_restarted_in_place_still_shows_its_last_end() -> None:
    status = {
        "state": {"running": {}},
        "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
    }
    assert explain(FAILED, [_told("p", containerStatuses=[status])]).reason == Reason.OOM


def test_the_controllers_word_counts_where_pods_say_nothing() -> None:
    assert explain(JobState(Phase.FAILED, "DeadlineExceeded", "x"), []).reason == Reason.DEADLINE
    message = "Job has failed because it was active longer than specified deadline"
    assert (
        explain(JobState(Phase.FAILED, "PyTorchJobFailed", message), []).reason == Reason.DEADLINE
    )
    unknown = explain(
        JobState(Phase.FAILED, "FailedJobs", "jobset failed"), [_told("p", phase="Running")]
    )
    assert unknown == Failure(Reason.INFRA, "FailedJobs: jobset failed")


def test_waiting_is_explained_by_the_pod_or_the_newest_event() -> None:
    assert blocked([_told("p", phase="Pending")]) is None
    unscheduled = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3 nodes",
    }
    failure = blocked([_told("p", conditions=[unscheduled])])
    assert failure is not None
    assert (failure.reason, failure.what) == (Reason.UNSCHEDULABLE, "0/3 nodes")
    events = [
        {"reason": "FailedCreate", "message": "exceeded quota: gpu", "lastTimestamp": "2026-01-02"},
        {"reason": "FailedScheduling", "message": "older", "lastTimestamp": "2026-01-01"},
        {"reason": "Scheduled", "message": "noise", "lastTimestamp": "2026-01-03"},
    ]
    failure = blocked([], events)
    assert failure is not None
    assert (failure.reason, failure.what) == (
        Reason.UNSCHEDULABLE,
        "FailedCreate: exceeded quota: gpu",
    )


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ({"running": {"startedAt": "2026-01-01T00:00:00Z"}}, None),
        ({"waiting": {"reason": "CrashLoopBackOff"}}, Reason.USER_ERROR),
    ],
)
def test_what_ended_a_container_before_the_one_that_runs_is_history(
    now: dict[str, Any], expected: Reason | None
) -> None:
    pod = _ended("p", EXIT_REFUSED, _words(EXIT_REFUSED, "no credentials"))
    container = pod["status"]["containerStatuses"][0]
    container |= {"state": now, "lastState": container["state"]}
    failure = blocked([pod])
    assert (failure and failure.reason) == expected


def test_refused_pods_are_history_once_all_are_there() -> None:
    refused = [
        {
            "reason": "FailedCreatePod",
            "message": 'pods "p" is forbidden',
            "lastTimestamp": "2026-01-01",
        }
    ]
    pod = _told("p", phase="Pending")
    assert blocked([pod], refused, nodes=1) is None
    failure = blocked([pod], refused, nodes=2)
    assert failure is not None
    assert failure.reason == Reason.USER_ERROR


@pytest.mark.parametrize(
    ("event", "message", "reason"),
    [
        ("TrainJobResourcesCreationFailed", "failed calling webhook", Reason.INFRA),
        (
            "FailedCreate",
            'pods "p" is forbidden: violates PodSecurity "restricted:latest"',
            Reason.USER_ERROR,
        ),
        ("FailedCreatePod", 'Error creating: Pod "p" is invalid: spec.volumes', Reason.USER_ERROR),
        (
            "FailedCreatePod",
            'Error creating: pods "p" is forbidden: exceeded quota: gpus',
            Reason.UNSCHEDULABLE,
        ),
        (
            "FailedCreatePod",
            "Error creating: Internal error occurred: failed calling webhook",
            Reason.INFRA,
        ),
        ("FailedMount", 'secret "s3" not found', Reason.USER_ERROR),
        ("FailedAttachVolume", "timed out", Reason.INFRA),
    ],
)
def test_events_tell_user_errors_from_the_clusters(
    event: str, message: str, reason: Reason
) -> None:
    assert explain(FAILED, [], [{"reason": event, "message": message}]).reason == reason


def test_a_pod_that_outlives_its_grace_has_lost_its_node() -> None:
    def pod(stamp: str | None) -> dict[str, Any]:
        return {
            "metadata": {"name": "p", **({"deletionTimestamp": stamp} if stamp else {})},
            "spec": {"nodeName": "node-7"},
        }

    due = 1_800_000_000.0
    stamp = datetime.fromtimestamp(due, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert lost([pod(None), pod(stamp)], due + 10) is None, "a node may be a little late"
    failure = lost([pod(None), pod(stamp)], due + 60)
    assert failure is not None
    assert (failure.reason, failure.where) == (Reason.INFRA, "p")
    assert "node-7" in failure.what


@pytest.mark.parametrize(
    ("name", "is_ours"),
    [
        ("vita-run-13", True),
        ("vita-run-13-worker-0", True),
        ("vita-run-13-node-0-0-x7k2p", True),
        ("pod-1", True),
        ("vita-run-13-2", False),
        ("vita-run-13-2-worker-0", False),
        ("vita-run-131", False),
        ("other", False),
    ],
)
def test_events_of_another_attempt_are_not_ours(name: str, is_ours: bool) -> None:
    assert belongs(name, {"vita-run-13", "pod-1"}) is is_ours
