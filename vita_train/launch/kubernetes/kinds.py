"""The kinds of job there are, and the choice between them."""

from __future__ import annotations

from collections.abc import Collection

from vita_train.errors import UserError
from vita_train.launch.kubernetes.kind import JobKind


def served_kinds(served: Collection[str]) -> list[JobKind]:
    """Return the kinds of job of ours that a cluster serves: those of training, the preferred one
    first, then that of the steps.

    Args:
        served: ``group/version`` of every API the cluster serves.
    """
    from vita_train.launch.kubernetes.indexedjob import IndexedJobs

    kinds = [*_known().values(), IndexedJobs()]
    return [kind for kind in kinds if kind.resource.api_version in served]


def choose(wanted: str, served: Collection[str]) -> JobKind:
    """Return the kind of job to use.

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
    raise UserError(
        f"this cluster serves no {missing}",
        code="VT-USE-053",
        where="platform.backend",
        remedy="install Kubeflow Trainer (or the Training Operator), or choose another backend",
    )


def _known() -> dict[str, JobKind]:
    from vita_train.launch.kubernetes.pytorchjob import PyTorchJobs
    from vita_train.launch.kubernetes.trainjob import TrainJobs

    return {"trainjob": TrainJobs(), "pytorchjob": PyTorchJobs()}
