"""Trying again while a store is away: servers restart, networks break, throttles open again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from pydantic import ValidationError
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_before_delay,
    wait_random_exponential,
)

from vita_train.errors import EXIT_RETRYABLE, StorageError
from vita_train.storage.base import DamagedError, MissingKeyError

T = TypeVar("T")

log = logging.getLogger(__name__)

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 20.0


def retrying(work: Callable[[], T], seconds: float) -> T:
    """Return what `work` returns; when the store is away, call it again, for so many seconds since
    the first call.

    Pauses grow and are random, so that the ranks of a job do not all come back at once.

    Raises:
        StorageError: the store stayed away; the last error.
        VitaError: any other error at once, as `work` raised it.
    """
    tries = Retrying(
        retry=retry_if_exception(_passes),
        stop=stop_before_delay(seconds),
        before_sleep=_tell,
        wait=wait_random_exponential(multiplier=_FIRST_PAUSE, max=_LONGEST_PAUSE),
        reraise=True,
    )
    return tries(work)


def read_twice(
    read: Callable[[], T],
    wrong: tuple[type[Exception], ...] = (ValidationError, DamagedError, MissingKeyError),
) -> T:
    """Return what a read gives, tried once more where it is not what was stored: it may be wrong on
    its way only.

    Args:
        read: called again after any of `wrong`.
        wrong: errors of what should be there; without MissingKeyError for what may well be absent.
    """
    try:
        return read()
    except wrong:
        return read()


def _passes(error: BaseException) -> bool:
    return isinstance(error, StorageError) and error.exit_code == EXIT_RETRYABLE


def _tell(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, StorageError):
        log.warning("%s: %s; trying again", error.where, error.what)
