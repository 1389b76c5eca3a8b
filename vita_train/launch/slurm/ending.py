"""Why a job of SLURM ended: what its nodes left behind, else what the controller says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vita_train.errors import (
    EXIT_FAILED,
    EXIT_REFUSED,
    EXIT_RETRYABLE,
    PeerLostError,
    StoppedError,
    VitaError,
)
from vita_train.launch.outcome import node_failure, tail
from vita_train.launch.slurm.controller import JobState
from vita_train.launch.slurm.node import outcome_file

#: A refusal explains a peer's crash, and a crash explains a lost peer.
_ORDER = (EXIT_REFUSED, EXIT_FAILED, EXIT_RETRYABLE)
#: What srun adds to the signal that ended a task.
_KILLED = 128
#: States in which the cluster, not the job, is to blame.
_LOST = {
    "NODE_FAIL": "a node of the job was lost",
    "BOOT_FAIL": "a node of the job did not start",
    "PREEMPTED": "the job was preempted",
    "REVOKED": "another cluster took the job",
}


@dataclass(frozen=True)
class Ending:
    """How a job ended."""

    failure: VitaError | None = None
    """Why it failed; None where it ended well."""
    met_time_limit: bool = False
    """Whether that was its time limit alone, so that more time is all it needs."""
    was_preempted: bool = False
    """Whether it made room for another job, so that it may go on later."""


def ending(job: int, end: JobState, folder: Path, nodes: int) -> Ending:
    """Return how a job ended.

    Args:
        job: its number.
        end: its last state.
        folder: that launcher and nodes share.
        nodes: how many the job had.
    """
    if end.state == "COMPLETED":
        return Ending()
    where = f"job {job} on {end.nodes}; logs in {folder}"
    said = [
        failure
        for node in range(nodes)
        if (path := outcome_file(folder, job, end.restarts, node)).exists()
        if (failure := node_failure(EXIT_FAILED, path, folder / f"node-{node}.log"))
    ]
    for code in _ORDER:
        for failure in said:
            if failure.exit_code == code:
                return Ending(failure)
    if end.is_preempted and end.state != "CANCELLED":
        # It saved its state in time, so that SLURM takes it for one that failed by itself
        preempted = PeerLostError(
            "the job was preempted",
            code="VT-PEER-011",
            where=where,
            remedy="run the same command to go on from the last checkpoint",
        )
        return Ending(preempted, was_preempted=True)
    # Beside a cancel and the cluster itself, only the limit tells every node to stop; where one
    # was killed, the others are told too.
    stopped = len(said) == nodes and end.state not in (*_LOST, "CANCELLED")
    if stopped and not end.has_limit:
        told = PeerLostError(
            "the cluster told every node of the job to stop, and it has no time limit",
            code="VT-PEER-015",
            where=where,
            remedy="run the same command to go on from the last checkpoint; SLURM's own logs, "
            "slurmctld's and the nodes', say what for",
        )
        return Ending(told)
    if stopped or end.state in ("TIMEOUT", "DEADLINE"):
        limit = StoppedError(
            "the job met its time limit",
            code="VT-STOP-007",
            where=where,
            remedy="run the same command to go on from the last checkpoint; "
            "launch.settings.slurm.renewals has it submitted again by itself",
        )
        return Ending(limit, met_time_limit=True)
    return Ending(_cause(job, end, folder, nodes, where))


def _cause(job: int, end: JobState, folder: Path, nodes: int, where: str) -> VitaError:
    """Return what the controller knows of a job whose nodes said nothing."""
    if lost := _LOST.get(end.state):
        return PeerLostError(
            lost, code="VT-PEER-012", where=where, remedy="run the same command again"
        )
    if end.state == "CANCELLED":
        return StoppedError(
            "the job was cancelled in the queue",
            code="VT-STOP-008",
            where=where,
            remedy="run the same command to go on from the last checkpoint",
        )
    if end.state == "OUT_OF_MEMORY":
        return VitaError(
            "the job took more memory than it was given",
            code="VT-FAIL-018",
            where=where,
            remedy="give more with launch.settings.slurm.options.mem, or raise batch.grad_accum",
        )
    silent = next(
        (
            node
            for node in range(nodes)
            if not outcome_file(folder, job, end.restarts, node).exists()
        ),
        0,
    )
    last = tail(folder / "slurm.log", lines=3) + "\n" + tail(folder / f"node-{silent}.log")
    # srun ends with the highest status, which may be that of a peer that it told to stop
    if killed := end.signal or max(end.code - _KILLED, 0):
        return PeerLostError(
            f"a process of the job was killed by signal {killed}; the logs end\n{last}",
            code="VT-PEER-013",
            where=where,
            remedy="often memory: lower batch.global_batch_size or raise batch.grad_accum, then "
            "run the same command again",
        )
    return VitaError(
        f"the job ended with status {end.code} and said no more; its logs end\n{last}",
        code="VT-FAIL-019",
        where=where,
    )
