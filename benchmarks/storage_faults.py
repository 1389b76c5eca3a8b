"""Checkpoints saved to and read from an S3 server through a proxy that spoils requests.

Afterwards the store must hold the old checkpoint or the new one, whole; a save that ended well
means the new one; whatever went wrong was said by an error of ours.
"""

from __future__ import annotations

import random
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3

from benchmarks.scratch import scratch, server_for
from tests.helpers.checkpoints import STAGE, save, whole_step
from tests.helpers.s3_faults import FaultProxy, Kind, short_pauses, spoiling
from vita_train.errors import VitaError
from vita_train.storage.checkpoints.attempt import begin_attempt
from vita_train.storage.s3 import S3Store

#: What fails in each kind of work, and of which requests; see `FaultProxy.spoil`.
KINDS: tuple[Kind, ...] = (
    "InternalError",
    "SlowDown",
    "cut request",
    "cut answer",
    "lost answer",
    "changed request",
    "changed answer",
    "page",
    "empty",
)
MATCHES = {
    "save": (
        "",
        "PUT",
        "POST",
        "PUT .*/committed/",
        "PUT .*manifest",
        "PUT .*optim-1",
        "GET .*prefix=",
        "HEAD",
    ),
    "read": (
        "",
        "GET",
        "GET .*/committed/",
        "GET .*manifest",
        "GET .*prefix=",
        "GET .*large.bin",
        "GET .*optim-1",
        "HEAD",
    ),
}
_OF_WRITES = ("cut request", "changed request")


def spoil_storage(minutes: float) -> Iterator[dict[str, Any]]:
    """Save and read checkpoints through faults until the time is over."""
    with (
        scratch() as folder,
        short_pauses(),
        server_for("s3", folder) as endpoint,
        spoiling(endpoint) as proxy,
    ):
        bucket = f"faults-{uuid.uuid4().hex[:8]}"
        boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(
            Bucket=bucket
        )
        deadline = time.monotonic() + 60 * minutes
        # Making a client takes longer than most trials.
        direct, store = (
            S3Store(bucket, "runs", endpoint=at, retry_timeout=1.0)
            for at in (endpoint, proxy.endpoint)
        )
        while time.monotonic() < deadline:
            yield spoil_once(proxy, direct, store, folder / "work")
            direct.delete(direct.list())
            shutil.rmtree(folder / "work", ignore_errors=True)


def spoil_once(proxy: FaultProxy, direct: S3Store, store: S3Store, folder: Path) -> dict[str, Any]:
    """Save a checkpoint, save another or read it through a fault, and say what came of it."""
    work = random.choice(("save", "read"))
    kind = random.choice([kind for kind in KINDS if work == "save" or kind not in _OF_WRITES])
    match = random.choice(MATCHES[work])
    attempt, faults, told = begin_attempt(direct, STAGE), [], ""
    save(direct, attempt, 10, folder / "first")
    fault = proxy.spoil(kind, match, times=random.choice((1, 2, 5, 12, float("inf"))))
    try:
        if work == "save":
            save(store, attempt, 20, folder / "second")
        elif (read := whole_step(store, folder / "read")) is None:
            told = "passed over"  # whoever resumes refuses to begin anew
        elif read != (10, ""):
            faults.append(f"read {read}")
    except VitaError as error:
        told = str(error)
    except Exception as error:
        faults.append(f"{type(error).__name__}: {error}"[:300])
    proxy.heal()
    try:
        found = whole_step(direct, folder / "after")
    except Exception as error:
        found = None
        faults.append(f"afterwards: {type(error).__name__}: {error}"[:300])
    right = (
        {(10, ""), (20, "")} if told and work == "save" else {(20 if work == "save" else 10, "")}
    )
    if found not in right:
        faults.append(f"the store holds {found}")
    return {
        "kind": "faults",
        "fault": kind,
        "match": match,
        "work": work,
        "spoilt": fault.seen,
        "told": bool(told),
        "equal": not faults,
        "faults": faults,
    }
