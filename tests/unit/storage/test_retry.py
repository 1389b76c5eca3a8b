"""Trying again while a store is away, and only then."""

from __future__ import annotations

import pytest

from vita_train.errors import StorageError, UserError
from vita_train.storage.base import DamagedError, MissingKeyError
from vita_train.storage.retry import retrying


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vita_train.storage.retry._FIRST_PAUSE", 0.001)
    monkeypatch.setattr("vita_train.storage.retry._LONGEST_PAUSE", 0.002)


class Work:
    """Raises the errors it was given, one a call, then returns how often it was called."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.calls


def test_a_store_that_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    assert retrying(Work(*[StorageError("is away", where="s3://b/k") for _ in range(20)]), 60) == 21
    assert "s3://b/k: is away; trying again" in caplog.text


def test_a_store_that_stays_away() -> None:
    work = Work(*[StorageError(f"is away {n}") for n in range(10_000)])
    with pytest.raises(StorageError, match="is away"):
        retrying(work, 0.05)
    assert 1 < work.calls < 10_000


def test_no_patience_is_one_try() -> None:
    work = Work(StorageError("is away"))
    with pytest.raises(StorageError):
        retrying(work, 0)
    assert work.calls == 1


@pytest.mark.parametrize(
    "error", [UserError("x"), MissingKeyError("x"), DamagedError("x"), ValueError("x")]
)
def test_what_time_does_not_mend_is_raised_at_once(error: Exception) -> None:
    work = Work(error)
    with pytest.raises(type(error)):
        retrying(work, 60)
    assert work.calls == 1
