"""What a launcher takes for a cancel, and for none, of all that it may see of its Workflow.

The cluster is played here; `tests/cluster/test_launcher.py` has a real one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from vita_train.errors import UserError
from vita_train.launch.kubernetes.workflow import CancelWatch, Workflow


class PlayedCluster:
    """Lists one state of the Workflow, then tells of changes."""

    def __init__(self, listed: list[Any], changes: list[tuple[str, Any]], refuse: bool) -> None:
        self._listed, self._changes, self._refuse = listed, changes, refuse

    def objects(self, *_: Any, **query: str) -> tuple[list[Any], str]:
        assert query == {"fieldSelector": "metadata.name=run"}
        if self._refuse:
            raise UserError("may not list workflows", code="VT-X")
        return self._listed, "1"

    def watch(self, *_: Any, **__: str) -> Iterator[tuple[str, Any]]:
        yield from self._changes
        self._listed, self._changes = self._listed, []
        time.sleep(30)


def workflow(spec: dict[str, Any] | None = None, phase: str = "Running", **meta: Any) -> Any:
    return {"metadata": {"name": "run", **meta}, "spec": spec or {}, "status": {"phase": phase}}


@pytest.mark.parametrize(
    ("listed", "changes", "cancelled"),
    [
        ([workflow()], [], False),
        ([workflow()], [("MODIFIED", workflow(phase="Running")), ("BOOKMARK", {})], False),
        ([workflow(phase="")], [], False),
        ([workflow({"activeDeadlineSeconds": 3600})], [], False),
        ([workflow({"activeDeadlineSeconds": 0})], [], True),
        ([workflow()], [("MODIFIED", workflow({"shutdown": "Terminate"}))], True),
        ([workflow()], [("MODIFIED", workflow(phase="Failed"))], True),
        ([workflow()], [("MODIFIED", workflow(deletionTimestamp="2026-01-01T00:00:00Z"))], True),
        ([workflow()], [("DELETED", workflow())], True),
        ([], [], True),
    ],
)
def test_what_is_a_cancel(listed: list[Any], changes: list[Any], cancelled: bool) -> None:
    cluster: Any = PlayedCluster(listed, changes, refuse=False)
    with CancelWatch(cluster, Workflow("ns", "run", "uid"), pytest.fail) as watch:
        deadline = time.monotonic() + (10 if cancelled else 0.5)
        while not watch.is_cancelled() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert watch.is_cancelled() == cancelled


def test_without_the_right_to_look_it_says_so_once_and_cancels_nothing() -> None:
    said: list[str] = []
    cluster: Any = PlayedCluster([], [], refuse=True)
    with CancelWatch(cluster, Workflow("ns", "run", "uid"), said.append) as watch:
        deadline = time.monotonic() + 10
        while not said and time.monotonic() < deadline:
            assert not watch.is_cancelled()
            time.sleep(0.01)
        assert not watch.is_cancelled()
    assert len(said) == 1


def test_outside_of_a_workflow_nothing_is_watched() -> None:
    nothing: Any = None
    with CancelWatch(nothing, None, pytest.fail) as watch:
        assert not watch.is_cancelled()
