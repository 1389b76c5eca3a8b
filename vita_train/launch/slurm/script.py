"""The sbatch script of a stage: one task a node, which becomes the node's command."""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
from pathlib import Path

from vita_train.launch.backend import StageJob
from vita_train.launch.slurm.declared import SlurmSettings
from vita_train.recipe.platform import GRACE

#: Most characters of a job's name before its digest.
_NAME = 60
#: A job that was put back numbers its steps from 0 again, and a controller still delivers what it
#: could not tell a lost node, within a minute of its return: to end step 0, say, since its peer
#: failed. So each start takes a number that none before it had.
_UNUSED_NUMBER = """\
for ((start = 0; start < ${SLURM_RESTART_COUNT:-0}; start++)); do
  srun --nodes=1 --ntasks=1 true
done"""


def job_name(job: StageJob) -> str:
    """Return the name under which a launcher finds the job of a stage of a run again."""
    # Runs of one name in two stores are two jobs
    where = hashlib.sha256(job.run.uri(job.stage).encode()).hexdigest()[:10]
    readable = re.sub(r"[^a-z0-9.-]+", "-", f"vita-{job.run.name}-{job.stage}".lower())
    return f"{readable[:_NAME]}-{where}"


def sbatch_script(job: StageJob, settings: SlurmSettings, folder: Path) -> str:
    """Return the script.

    Args:
        job: what to run.
        settings: of the recipe.
        folder: absolute, shared by launcher and nodes; the logs ``node-<n>.log`` go there.
    """
    resources, launch = job.resources, job.run.recipe.launch
    # Loader workers are processes beside each rank
    cpus = resources.nproc * (resources.threads + launch.workers)
    options = {
        "job-name": job_name(job),
        "comment": job.digest,
        "nodes": str(resources.nodes),
        "ntasks-per-node": "1",
        "cpus-per-task": str(cpus),
        "output": _quoted(folder / "slurm.log"),
        "open-mode": "append",
        "requeue" if settings.requeue else "no-requeue": "",
        # To the steps alone: the script must outlive them to say how they ended.
        "signal": f"TERM@{settings.grace}",
        "time": str(settings.time or ""),
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "constraint": settings.constraint,
        "gres": f"{settings.gres}:{resources.nproc}" if settings.gres else "",
    }
    flags = {"requeue", "no-requeue"}
    lines = [
        f"#SBATCH --{name}{f'={value}' if value else ''}"
        for name, value in options.items()
        if value or name in flags
    ]
    lines += [
        f"#SBATCH --{name}{f'={value}' if value else ''}"
        for name, value in sorted(settings.options.items())
    ]
    exports = [
        f"export {name}={shlex.quote(value)}"
        for name, value in sorted({**job.environment, GRACE: str(settings.grace)}.items())
    ]
    python = settings.python or sys.executable
    task = [python, "-m", "vita_train.launch.slurm.node", str(folder)]
    task += [str(resources.nproc), str(settings.port), *job.command[1:]]
    # srun takes the number of CPUs from no one but its own command line.
    # kill-on-bad-exit: nodes that are left would wait for the lost one until the time limit
    step = ["srun", "--kill-on-bad-exit=1", f"--cpus-per-task={cpus}", "--open-mode=append"]
    step += [f"--output={folder / 'node-%n.log'}", *task]
    return "\n".join(
        [
            "#!/bin/bash",
            *lines,
            *exports,
            "# A handler, so that the shell waits for the step when both are told to stop",
            "trap : TERM",
            _UNUSED_NUMBER,
            shlex.join(step),
            "",
        ]
    )


def _quoted(path: Path) -> str:
    """Return a path as a value of an ``#SBATCH`` line, which splits words as a shell does."""
    text = str(path)
    return f'"{text}"' if re.search(r"\s", text) else text
