"""Two processes that both believe they train a stage: one commits, the other learns it, and every
byte is whole."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.checkpoints import STAGE, assert_told, save, whole_step
from tests.helpers.s3_faults import FaultProxy
from vita_train.errors import PeerLostError
from vita_train.storage.checkpoints.attempt import Attempt, begin_attempt
from vita_train.storage.s3 import S3Store


def test_both_save_the_same_step_at_once(direct: S3Store, tmp_path: Path) -> None:
    attempts = {mark: begin_attempt(direct, STAGE) for mark in ("a", "b")}
    barrier = threading.Barrier(2)
    committed: list[str] = []
    replaced: list[PeerLostError] = []

    def write(mark: str) -> None:
        barrier.wait()
        try:
            save(direct, attempts[mark], 10, tmp_path / mark, mark)
            committed.append(mark)
        except PeerLostError as error:
            replaced.append(error)

    threads = [threading.Thread(target=write, args=(mark,)) for mark in attempts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert committed == ["b"], "the one that began later"
    assert len(replaced) == 1
    assert_told(replaced[0], direct.uri)
    assert whole_step(direct, tmp_path / "back") == (10, "b")


def begun(store: S3Store) -> Attempt:
    return begin_attempt(store, STAGE)


@pytest.mark.parametrize("saves_at_once", [True, False])
def test_a_later_start_while_a_marker_is_on_its_way(
    store: S3Store, direct: S3Store, proxy: FaultProxy, tmp_path: Path, saves_at_once: bool
) -> None:
    later: list[Attempt] = []

    def start_later() -> None:
        later.append(begun(direct))
        if saves_at_once:
            save(direct, later[0], 10, tmp_path / "later", "later")

    earlier = begun(store)
    proxy.spoil("late", "PUT .*/committed/", times=1, before=start_later)
    with pytest.raises(PeerLostError) as caught:
        save(store, earlier, 10, tmp_path / "earlier", "earlier")
    assert_told(caught.value, direct.uri)
    if not saves_at_once:
        save(direct, later[0], 10, tmp_path / "later", "later")
    assert whole_step(direct, tmp_path / "back") == (10, "later")


def test_a_marker_is_never_written_over(
    store: S3Store, direct: S3Store, proxy: FaultProxy, tmp_path: Path
) -> None:
    """The second start repeats a step of the first; before its marker arrives, a third has
    committed that step."""
    save(direct, begun(direct), 10, tmp_path / "first", "first")
    second = begun(store)

    def start_third() -> None:
        if (
            sum(
                "/committed/" in request and request.startswith("PUT") for request in proxy.requests
            )
            == 2
        ):
            save(direct, begun(direct), 10, tmp_path / "third", "third")

    proxy.spoil("late", "PUT .*/committed/", times=2, before=start_third)
    with pytest.raises(PeerLostError):
        save(store, second, 10, tmp_path / "second", "second")
    assert whole_step(direct, tmp_path / "back") == (10, "third")


def when_first(work: Callable[[], None]) -> Callable[[], None]:
    """Return a function that does its work when it is first called."""
    calls: list[None] = []

    def once() -> None:
        calls.append(None)
        if len(calls) == 1:
            work()

    return once


def test_a_server_without_conditional_writes(
    store: S3Store, direct: S3Store, proxy: FaultProxy, tmp_path: Path
) -> None:
    """Both find the register empty and take the same number; the one that was written over is the
    one that ends."""
    for each in (store, direct):
        each.__dict__["honours_conditions"] = False
    other: list[Attempt] = []
    proxy.spoil("late", "PUT .*/attempts/", before=when_first(lambda: other.append(begun(direct))))
    own = begun(store)
    assert other[0].restarts == own.restarts == 0
    with pytest.raises(PeerLostError):
        save(direct, other[0], 10, tmp_path / "other", "other")
    save(store, own, 10, tmp_path / "own", "own")
    assert whole_step(direct, tmp_path / "back") == (10, "own")
