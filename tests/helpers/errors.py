"""Expecting an error of ours by what stays when its words change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

from vita_train.errors import VitaError

Error = TypeVar("Error", bound=VitaError)


def shows_code(output: str, code: str, *facts: str) -> bool:
    """Say whether one line of a command's output holds an error's code and all the facts."""
    return any(all(fact in line for fact in (f"[{code}]", *facts)) for line in output.splitlines())


@contextmanager
def raises_code(kind: type[Error], code: str, *facts: str) -> Iterator[pytest.ExceptionInfo[Error]]:
    """Expect an error of a class and a code during the block.

    Args:
        kind: class, which decides the exit code.
        code: as ``docs/reference/errors.md`` lists it.
        facts: what a reader must be told besides: a place, a value, a command, as they are written
            there; no sentences.
    """
    with pytest.raises(kind) as caught:
        yield caught
    told = str(caught.value)
    assert caught.value.code == code, told
    for fact in facts:
        assert fact in told
