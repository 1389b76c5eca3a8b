"""The job backends there are: where the processes of a stage can be started.

A backend is declared without its implementation, which is imported when a job is started. The
package's own lie in folders of ``vita_train/launch`` with a module ``declared``; they are found
there, so that a new one is one folder. A package outside this one adds a backend by calling
`register_job_backend` from its plugin (`vita_train.plugins`).
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import create_model

from vita_train.plugins import Registry
from vita_train.recipe.base import Strict


@dataclass(frozen=True)
class JobBackendSpec:
    """One job backend."""

    name: str
    """As ``launch.backend`` names it."""
    implementation: str
    """``package.module:Class`` of a `vita_train.launch.backend.JobBackend`, made without
    arguments."""
    settings: type[Strict] | None = None
    """What a recipe may say to it under ``launch.settings.<settings_key>``; every field has a
    default."""
    settings_key: str = ""
    """Backends of one kind may share their settings; the name when empty."""
    here: bool = False
    """Whether the processes run on this machine, so that it must have what they need."""

    @property
    def key(self) -> str:
        """Key of its settings."""
        return self.settings_key or self.name


JOB_BACKENDS: Registry[JobBackendSpec] = Registry("job backend", "vita_train.launch.*.declared")


def register_job_backend(spec: JobBackendSpec) -> None:
    """Add a job backend.

    Raises:
        VitaError: its name is taken.
    """
    JOB_BACKENDS.add(spec.name, spec)


register_job_backend(JobBackendSpec("local", "vita_train.launch.local:LocalBackend", here=True))


def settings_model(module: str) -> type[Strict]:
    """Return the model of ``launch.settings``, with a field for each backend that has settings.

    Args:
        module: the one that has it as ``BackendSettings``, where another process finds it.
    """
    specs = [JOB_BACKENDS[name] for name in JOB_BACKENDS]
    fields = {
        spec.key: (spec.settings, spec.settings()) for spec in specs if spec.settings is not None
    }
    return create_model(
        "BackendSettings",
        __base__=Strict,
        # pickle finds a class by module and name: recipes travel to the workers of preparation
        __module__=module,
        __doc__="Settings of job backends, each under its name.",
        **fields,
    )  # type: ignore[call-overload]
