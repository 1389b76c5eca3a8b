"""A Kubeflow Pipelines server: putting compiled pipelines there, and starting runs of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import urllib3.exceptions
import yaml

from vita_train import __version__
from vita_train.credentials import holds_credentials
from vita_train.errors import PeerLostError, UserError
from vita_train.pipeline.compiled import compiled_with
from vita_train.storage.digest import sha256_file

#: Where a pod's token for Kubeflow Pipelines is mounted, unless the variable says so.
TOKEN, TOKEN_VARIABLE = (
    Path("/var/run/secrets/kubeflow/pipelines/token"),
    "KF_PIPELINES_SA_TOKEN_PATH",
)
_NO_ENTRY = (401, 403)


class PipelineServer:
    """The API of Kubeflow Pipelines, v2beta1.

    Args:
        endpoint: URL, such as http://ml-pipeline.kubeflow:8888.
        namespace: of a multi-user installation; empty for one that has a single user.
    """

    def __init__(self, endpoint: str, namespace: str = "") -> None:
        # Kfp.Client asks five times for the server's health and prints each traceback
        import kfp_server_api as api

        if holds_credentials(endpoint):
            raise UserError(
                "holds a user, a password or a key inside a URL",
                code="VT-USE-063",
                where=endpoint,
                remedy="forward the port of service ml-pipeline, or put a proxy before it that "
                "knows them",
            )
        settings = api.Configuration(host=endpoint.rstrip("/"))
        if mounted := os.environ.get(TOKEN_VARIABLE) or (str(TOKEN) if TOKEN.exists() else ""):
            settings.api_key = {"authorization": Path(mounted).read_text(encoding="utf-8").strip()}
            settings.api_key_prefix = {"authorization": "Bearer"}
        client = api.ApiClient(settings)
        self._api = api
        self._pipelines, self._uploads = (
            api.PipelineServiceApi(client),
            api.PipelineUploadServiceApi(client),
        )
        self._experiments, self._runs = api.ExperimentServiceApi(client), api.RunServiceApi(client)
        self._endpoint = settings.host
        self._where = {"namespace": namespace} if namespace else {}

    def upload(self, path: Path) -> str:
        """Put a compiled pipeline there as a new version; the same file only once. Pipeline and
        version get the description that was compiled into it.

        Returns:
            The version's name.

        Raises:
            UserError: it is no compiled pipeline, or the server refuses it.
            PeerLostError: the server does not answer.
        """
        about, digest = _about(path), sha256_file(path)[:8]
        with _explained(self._endpoint):
            known = self._find(about["name"])
            if known is None:
                # Made by itself: one that is made by an upload has a first version of its own name.
                known = str(
                    self._pipelines.pipeline_service_create_pipeline(
                        self._api.V2beta1Pipeline(
                            display_name=about["name"],
                            name=about["name"],
                            description=about["description"],
                            **self._where,
                        )
                    ).pipeline_id
                )
            for version in self._versions(known):
                if version.endswith(digest):
                    return version
            version = f"{__version__}-{datetime.now(UTC):%Y-%m-%d}-{digest}"
            self._uploads.upload_pipeline_version(
                str(path), name=version, pipelineid=known, description=about["description"]
            )
            return version

    def start(
        self,
        pipeline: str,
        arguments: Mapping[str, Any],
        *,
        name: str,
        experiment: str,
        service_account: str = "",
    ) -> str:
        """Start a run of a pipeline's newest version and return its id.

        Args:
            pipeline: the pipeline's name.
            arguments: its parameters.
            name: of the run in the page of Kubeflow Pipelines.
            experiment: what the run is listed under; made if there is none.
            service_account: what the steps run as; empty takes the server's default.

        Raises:
            UserError: there is no such pipeline, or the server refuses the run.
            PeerLostError: the server does not answer.
        """
        with _explained(self._endpoint):
            known = self._find(pipeline)
            if known is None:
                raise UserError(
                    f"the server has no pipeline {pipeline!r}",
                    code="VT-USE-064",
                    where=self._endpoint,
                    remedy="upload it: vita-train cluster upload --endpoint ... FILE",
                )
            version = next(iter(self._versions(known).values()))
            run = self._runs.run_service_create_run(
                self._api.V2beta1Run(
                    experiment_id=self._experiment(experiment),
                    display_name=name,
                    service_account=service_account or None,
                    pipeline_version_reference=self._api.V2beta1PipelineVersionReference(
                        pipeline_id=known, pipeline_version_id=version
                    ),
                    runtime_config=self._api.V2beta1RuntimeConfig(parameters=dict(arguments)),
                )
            )
        return str(run.run_id)

    def page(self, run: str) -> str:
        """Return where a run can be watched."""
        return f"{self._endpoint}/#/runs/details/{run}"

    def state(self, run: str) -> str:
        """Return the state of a run as the server calls it, such as RUNNING or SUCCEEDED."""
        with _explained(self._endpoint):
            return str(self._runs.run_service_get_run(run).state)

    def terminate(self, run: str) -> None:
        """End a run that goes on."""
        with _explained(self._endpoint):
            self._runs.run_service_terminate_run(run)

    def has(self, pipeline: str) -> bool:
        """Say whether the server has a pipeline.

        Raises:
            UserError: the server refuses to say.
            PeerLostError: the server does not answer.
        """
        with _explained(self._endpoint):
            return self._find(pipeline) is not None

    def settings(self, pipeline: str) -> dict[str, str]:
        """Return what the newest version of one of our pipelines was compiled with: options of
        ``compile.py``.

        Empty where the server lacks the pipeline, or where it says otherwise than we would.

        Raises:
            UserError: the server refuses to say.
            PeerLostError: the server does not answer.
        """
        with _explained(self._endpoint):
            known = self._find(pipeline)
            if known is None:
                return {}
            version = next(iter(self._versions(known).values()))
            spec = self._pipelines.pipeline_service_get_pipeline_version(
                known, version
            ).pipeline_spec
        return compiled_with(spec or {})

    def _experiment(self, name: str) -> str:
        """Return an experiment's id, making it if there is none of this name."""
        found = (
            self._experiments.experiment_service_list_experiments(
                filter=_named(name), **self._where
            ).experiments
            or []
        )
        made = (
            found[0]
            if found
            else self._experiments.experiment_service_create_experiment(
                self._api.V2beta1Experiment(display_name=name, **self._where)
            )
        )
        return str(made.experiment_id)

    def _find(self, name: str) -> str | None:
        """Return a pipeline's id."""
        found = (
            self._pipelines.pipeline_service_list_pipelines(
                filter=_named(name), **self._where
            ).pipelines
            or []
        )
        return str(found[0].pipeline_id) if found else None

    def _versions(self, pipeline: str) -> dict[str, str]:
        """Return names and ids of a pipeline's versions, the newest first."""
        found: dict[str, str] = {}
        page = ""
        while True:
            answer = self._pipelines.pipeline_service_list_pipeline_versions(
                pipeline, page_token=page, page_size=100, sort_by="created_at desc"
            )
            for version in answer.pipeline_versions or []:
                found.setdefault(str(version.display_name), str(version.pipeline_version_id))
            page = answer.next_page_token or ""
            if not page:
                return found


def _named(name: str) -> str:
    """Return the server's filter for a display name."""
    return json.dumps(
        {"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]}
    )


def _about(path: Path) -> dict[str, str]:
    """Return name and description of a compiled pipeline."""
    try:
        with path.open(encoding="utf-8") as file:
            info = next(yaml.safe_load_all(file))["pipelineInfo"]
            return {"name": str(info["name"]), "description": str(info.get("description", ""))}
    except (
        OSError,
        UnicodeDecodeError,
        yaml.YAMLError,
        StopIteration,
        KeyError,
        TypeError,
    ) as error:
        raise UserError(
            "this is no compiled pipeline",
            code="VT-USE-065",
            where=str(path),
            remedy="give a file that pipelines/compile.py wrote",
        ) from error


@contextmanager
def _explained(endpoint: str) -> Iterator[None]:
    """Tell what kfp's client runs into as our own errors."""
    from kfp_server_api.exceptions import ApiException

    try:
        yield
    except ApiException as error:
        if error.status in _NO_ENTRY:
            raise UserError(
                f"the server does not let us in: {error.status} {error.reason}",
                code="VT-USE-066",
                where=endpoint,
                remedy=f"let {TOKEN_VARIABLE} name a file with a token for Kubeflow Pipelines, and "
                f"give "
                "--namespace on a multi-user installation",
            ) from error
        if error.status and error.status < 500:
            raise UserError(
                f"the server refuses: {_message(error)}",
                code="VT-USE-067",
                where=endpoint,
                remedy="correct what it names",
            ) from error
        raise PeerLostError(
            f"the server failed: {error.status} {_message(error)}",
            code="VT-PEER-003",
            where=endpoint,
            remedy="try again, or look at the log of ml-pipeline",
        ) from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise PeerLostError(
            f"Kubeflow Pipelines does not answer: {error}",
            code="VT-PEER-004",
            where=endpoint,
            remedy="check --endpoint, or forward the port of service ml-pipeline",
        ) from error


def _message(error: Any) -> str:
    try:
        said = json.loads(error.body)
        return str(said.get("error_message") or said.get("message") or error.reason)
    except (TypeError, ValueError, AttributeError):
        return str(error.reason)
