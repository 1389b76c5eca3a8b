"""What each node of a job runs: it becomes the command of the node, told which node it is.

    python -m vita_train.launch.slurm.node FOLDER NPROC PORT ARGUMENTS...

The ranks meet on the node that the step was started from, which is the first of the allocation, at
the address by which all the others were reached from there.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from vita_train.launch.backend import Resources, node_variables
from vita_train.launch.outcome import LAST_WORDS

_FIRST_PORT, _PORTS = 20000, 10000


def outcome_file(folder: Path, job: int, restart: int, node: int) -> Path:
    """Return the file that says why a node failed.

    Args:
        folder: that launcher and nodes share.
        job: its number.
        restart: how often SLURM put it back into the queue.
        node: number of the node within the job.
    """
    return folder / f"node-{job}-{restart}-{node}.error.json"


def main() -> None:
    """Become the node's command."""
    folder, nproc, port, *arguments = sys.argv[1:]
    job, node = int(os.environ["SLURM_JOB_ID"]), int(os.environ["SLURM_NODEID"])
    restart = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    resources = Resources(int(os.environ["SLURM_STEP_NUM_NODES"]), int(nproc), threads=1)
    master = os.environ["SLURM_LAUNCH_NODE_IPADDR"]
    os.environ.update(
        # By the job's number: two jobs that share a node seldom meet on a port
        node_variables(resources, node, master, int(port) or _FIRST_PORT + job % _PORTS)
    )
    os.environ[LAST_WORDS] = str(outcome_file(Path(folder), job, restart, node))
    print(f"node {node} of job {job}, started {restart + 1} times", flush=True)
    # In this process's place: signals of SLURM reach the command itself
    os.execv(sys.executable, [sys.executable, *arguments])


if __name__ == "__main__":
    main()
