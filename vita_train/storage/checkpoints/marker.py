"""Markers: the small files that make a checkpoint count.

A marker is never written over: where an earlier attempt has committed the step, a later one's is
called ``step-00001000.restart-000002.json``. So two attempts that do not know of each other cannot
undo each other's commits.
"""

from __future__ import annotations

import logging

from pydantic import ValidationError

from vita_train.errors import PeerLostError
from vita_train.recipe.base import Strict
from vita_train.storage.base import KeyExistsError, MissingKeyError, Store
from vita_train.storage.retry import read_twice

log = logging.getLogger(__name__)


class Marker(Strict):
    """What makes a checkpoint count."""

    manifest: str
    """Key of the manifest."""
    sha256: str
    """Of the manifest."""
    attempt: str
    restarts: int
    step: int
    digest: str = ""
    """Of everything that determines the stage, so that a marker alone tells whose checkpoint it
    is."""


def write_marker(store: Store, stage: str, marker: Marker) -> str:
    """Write a marker under a key that nobody has taken, and return the key.

    Raises:
        PeerLostError: a later attempt, or another that took the same number, has committed this
            step.
    """
    text = marker.model_dump_json().encode()
    name = f"{stage}/committed/step-{marker.step:08d}"
    key = f"{name}.json"
    try:
        store.write(key, text, if_absent=True)
    except KeyExistsError:
        other = read_marker(store, key)
        # Of an earlier attempt it is history: it stays, and this one's is written beside it
        if other is not None and other.restarts >= marker.restarts:
            raise PeerLostError(
                "another start of this stage has committed this step",
                code="VT-PEER-007",
                where=store.uri_of(key),
                remedy="let it run; do not start one run twice at the same time",
            ) from None
        key = f"{name}.restart-{marker.restarts:06d}.json"
        store.write(key, text, if_absent=True)
    return key


def read_marker(store: Store, key: str) -> Marker | None:
    """Return a marker; None, with a warning, when it cannot be read as one, tried twice."""
    try:
        return read_twice(lambda: Marker.model_validate_json(store.read(key)))
    except (ValidationError, MissingKeyError) as error:
        log.warning(
            "checkpoint passed over: %s is no marker (%s)", store.uri_of(key), type(error).__name__
        )
        return None


def markers(store: Store, stage: str) -> list[tuple[str, Marker]]:
    """Return a stage's markers with their keys, the one to resume from first.

    A later attempt's come before an earlier one's, whatever their steps: what an attempt that was
    replaced went on to write is not part of the stage's history.
    """
    return markers_and_others(store, stage)[0]


def markers_and_others(store: Store, stage: str) -> tuple[list[tuple[str, Marker]], list[str]]:
    """Return a stage's markers as `markers` does, and the keys of those that cannot be read."""
    found, unreadable = [], []
    for key in store.list(f"{stage}/committed/step-"):
        if (marker := read_marker(store, key)) is None:
            unreadable.append(key)
        else:
            found.append((key, marker))
    return sorted(
        found, key=lambda item: (item[1].restarts, item[1].step), reverse=True
    ), unreadable
