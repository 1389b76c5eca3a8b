"""The job backend of SLURM."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from vita_train.recipe.backends import JobBackendSpec, register_job_backend
from vita_train.recipe.base import OptionalCount, Seconds, Strict

#: A value of an option of sbatch: one word, and nothing that a shell would read.
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,:/@%+=\[\]&|*()-]*$", max_length=500)]

#: Options that follow from the recipe.
OWN_OPTIONS = frozenset(
    {
        *("job-name", "comment", "nodes", "ntasks", "ntasks-per-node", "cpus-per-task"),
        *("output", "error", "open-mode", "requeue", "no-requeue", "signal", "time"),
        *("partition", "account", "qos", "constraint", "gres", "export", "parsable", "wrap"),
    }
)


class SlurmSettings(Strict):
    """What a recipe says to SLURM."""

    partition: Word = ""
    """Partition; empty takes the cluster's default."""
    account: Word = ""
    qos: Word = ""
    constraint: Word = ""
    """Features that the nodes must have, such as ``h100``."""
    gres: Word = ""
    """Generic resource of which each rank takes one: ``gpu``, ``gpu:h100``; empty asks for none
    and trains on the CPU."""
    time: OptionalCount = 0
    """Limit in minutes; 0 takes the partition's."""
    renewals: OptionalCount = 0
    """Times that a job which met its time limit is submitted again, to go on from its last
    checkpoint."""
    requeue: bool = True
    """Whether SLURM puts the job back into the queue when it loses a node or is preempted."""
    grace: int = Field(default=180, ge=30, le=10**6)
    """Seconds that the ranks get to save their state before the time limit and when the job is
    cancelled; must exceed twice the worst time to save a checkpoint. A preempted job gets what its
    partition grants (``GraceTime``)."""
    python: Word = ""
    """Interpreter on the nodes; empty takes the launcher's own, from a file system that they
    share."""
    folder: str = Field(default="", pattern=r"^[^\n\r%]*$", max_length=1000)
    """Folder that launcher and nodes share, for the script, logs and outcomes; empty takes the
    folder of the stage's logs, which lies in the run."""
    port: int = Field(default=0, ge=0, le=65535)
    """Where the ranks meet; 0 takes one between 20000 and 29999 by the number of the job."""
    poll: Seconds = 2.0
    """Seconds between two looks at the job."""
    outage: Seconds = 600.0
    """Seconds that the controller may stay away before the launcher gives up."""
    options: dict[Word, Word] = {}
    """Further options of sbatch, without dashes: ``mem: 200G``; empty for one without a value."""

    @field_validator("options")
    @classmethod
    def _not_ours(cls, options: dict[str, str]) -> dict[str, str]:
        if ours := sorted(OWN_OPTIONS & options.keys()):
            raise ValueError(f"{', '.join(ours)} follow from the recipe and its other settings")
        return options


register_job_backend(
    JobBackendSpec("slurm", "vita_train.launch.slurm.launcher:SlurmBackend", SlurmSettings)
)
