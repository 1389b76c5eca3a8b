"""The kinds of job there are, and the choice between them."""

from __future__ import annotations

from collections.abc import Collection

from vita_train.errors import UserError
from vita_train.launch.kubernetes.backend import JobBackend


def served_backends(served: Collection[str]) -> list[JobBackend]:
    """Return the kinds of job that a cluster serves, the preferred one first.

    Args:
        served: ``group/version`` of every API the cluster serves.
    """
    return [backend for backend in _known().values() if backend.resource.api_version in served]


def choose(wanted: str, served: Collection[str]) -> JobBackend:
    """Return the backend to use.

    Args:
        wanted: ``auto``, ``pytorchjob`` or ``trainjob``.
        served: ``group/version`` of every API the cluster serves.

    Raises:
        UserError: the cluster does not serve it, or neither.
    """
    known = _known()
    names = list(known) if wanted == "auto" else [wanted]
    for name in names:
        if known[name].resource.api_version in served:
            return known[name]
    missing = " nor ".join(known[name].resource.api_version for name in names)
    raise UserError(f"this cluster serves no {missing}", where="platform.backend",
                    remedy="install Kubeflow Trainer (or the Training Operator), or choose another backend")


def _known() -> dict[str, JobBackend]:
    from vita_train.launch.kubernetes.pytorchjob import PyTorchJobs
    from vita_train.launch.kubernetes.trainjob import TrainJobs

    return {"trainjob": TrainJobs(), "pytorchjob": PyTorchJobs()}
