"""Which checkpoints stay: the newest few that count, the best, and whatever the current attempt is
still writing."""

from __future__ import annotations

import re

from vita_train.storage.base import Store
from vita_train.storage.checkpoints.attempt import Attempt, attempts
from vita_train.storage.checkpoints.marker import markers_and_others

_MARKED = re.compile(r"/committed/step-(\d+)")
_STEP = re.compile(r"attempt-([^/]+)/step-(\d+)/")


def retire(store: Store, attempt: Attempt, keep_last: int, best: float | None = None) -> None:
    """Delete old checkpoints and what attempts that died left half written.

    Rank 0 of the current attempt calls this after a commit of its own. Each checkpoint's marker
    goes before its data, so that no marker ever points to files that are being deleted. An attempt
    that began later is never touched.

    Args:
        store: where.
        attempt: the current attempt, which has committed at least one step.
        keep_last: checkpoints to keep, at least 1.
        best: step of one to keep beside them.
    """
    found, unreadable = markers_and_others(store, attempt.stage)
    older = [key for key, marker in found[keep_last:] if marker.step != best]
    kept = {(marker.attempt, marker.step) for key, marker in found if key not in older}
    # What cannot be read now may be read later; the key tells the step.
    unknown = {int(match[1]) for key in unreadable if (match := _MARKED.search(key))}
    own = [marker.step for _, marker in found if marker.attempt == attempt.id]
    if not own:
        return
    store.delete(older)

    # The listing comes before the register: an attempt registers before it writes, so whatever is
    # listed here and
    # not registered as ours or earlier belongs to a later one.
    keys = store.list(f"{attempt.stage}/attempt-")
    known = attempts(store, attempt.stage)
    doomed = []
    for key in keys:
        match = _STEP.match(key, len(attempt.stage) + 1)
        if match is None:
            continue
        owner, step = match[1], int(match[2])
        # Later steps of this attempt: their files are stored before they have a marker
        being_written = owner == attempt.id and step > max(own)
        later = known.get(owner, attempt.restarts + 1) > attempt.restarts
        if (owner, step) not in kept and step not in unknown and not being_written and not later:
            doomed.append(key)
    store.delete(doomed)
    # Uploads in parts that died are in no listing of keys, and are paid for
    for owner, restarts in known.items():
        if restarts < attempt.restarts:
            store.sweep(f"{attempt.stage}/attempt-{owner}")
