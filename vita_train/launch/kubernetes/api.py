"""The few calls of the Kubernetes API that the launcher makes, over the official client with plain
objects.

Every call outlasts an API server that stutters: too many requests, server errors and cut
connections are tried again with growing pauses until ``outage`` seconds have passed since the first
one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from vita_train.errors import PeerLostError, UserError
from vita_train.launch.kubernetes.job import Object
from vita_train.launch.kubernetes.kind import Resource

Result = TypeVar("Result")

#: Exceptions of a stream that broke, or of one that cannot be had yet.
BROKEN = (ApiException, urllib3.exceptions.HTTPError, OSError)

#: Seconds one plain call may take, and one stretch of a watch or of a followed log may stay silent.
_CALL, _SILENCE = 30.0, 300.0
_WATCH_SECONDS = 240
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0
_FIRST_OUTAGE = 30.0
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
#: Names the namespace of a process that has no service account.
POD_NAMESPACE = "VITA_TRAIN_NAMESPACE"


class ConflictError(Exception):
    """An object of this name is there already, or is no longer the one that was meant."""


class GoneError(Exception):
    """A watch asked for changes that the API server no longer remembers: list again."""


class Cluster:
    """One cluster's API.

    Args:
        api: the client to speak through.
        outage: seconds the API may stay away before a call gives up.
    """

    def __init__(self, api: client.ApiClient, *, outage: float) -> None:
        self._api = api
        self._outage = outage
        self._answered = False

    @classmethod
    def connect(cls, *, outage: float) -> Cluster:
        """Connect as the pod's service account, or as the user's kubeconfig says.

        Raises:
            UserError: there is neither.
        """
        try:
            if "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ:
                # A configuration of its own: the client's default one is shared by the whole
                # process
                settings = client.Configuration()
                config.load_incluster_config(client_configuration=settings)
                return cls(client.ApiClient(settings), outage=outage)
            return cls(config.new_client_from_config(), outage=outage)
        except config.ConfigException as error:
            raise UserError(
                f"no cluster can be reached: {error}",
                code="VT-USE-051",
                where="launch.backend",
                remedy="run it in a pod, or set KUBECONFIG",
            ) from error

    def served(self) -> set[str]:
        """Return ``group/version`` of every API group version the cluster serves."""
        groups = self._json("GET", "/apis")["groups"]
        return {version["groupVersion"] for group in groups for version in group["versions"]}

    def may(self, verb: str, group: str, resource: str, namespace: str) -> bool:
        """Ask whether this account may do something; ``resource`` may have a part, as in
        ``pods/log``."""
        name, _, part = resource.partition("/")
        wanted = {
            "verb": verb,
            "group": group,
            "resource": name,
            "subresource": part,
            "namespace": namespace,
        }
        answer = self._json(
            "POST",
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            body={
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": wanted},
            },
        )
        return bool(answer["status"]["allowed"])

    def create(
        self, resource: Resource, manifest: Mapping[str, Any], *, dry_run: bool = False
    ) -> Object:
        """Create a job; unknown fields are errors, not dropped.

        Args:
            resource: kind.
            manifest: the object.
            dry_run: the API server makes all of its checks and keeps nothing.

        Raises:
            ConflictError: there is one of this name.
            UserError: the API server refuses the object; its message.
        """
        path = _path(resource, manifest["metadata"]["namespace"])
        dry_run_query = {"dryRun": "All"} if dry_run else {}
        return self._json(
            "POST", path, query={"fieldValidation": "Strict", **dry_run_query}, body=manifest
        )

    def read(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """Return an object, or None if there is none."""
        try:
            return self._json("GET", _path(resource, namespace, name))
        except _MissingError:
            return None

    def delete(self, resource: Resource, namespace: str, name: str, uid: str) -> None:
        """Delete this very object, its pods first. One that is gone, or replaced by another, is
        left at that."""
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            # The job stays until its pods are gone: while it is there, its GPUs may be taken
            "propagationPolicy": "Foreground",
            # A job of the same name may have been made since
            "preconditions": {"uid": uid},
        }
        try:
            self._json("DELETE", _path(resource, namespace, name), body=body)
        except (_MissingError, ConflictError):
            return

    def objects(self, resource: Resource, namespace: str, **query: str) -> tuple[list[Object], str]:
        """Return objects, and the version of the list, from which a watch goes on.

        Args:
            resource: what to list.
            namespace: where.
            query: ``labelSelector``, ``fieldSelector``.
        """
        found = self._json("GET", _path(resource, namespace), query=query)
        return list(found["items"]), str(found["metadata"]["resourceVersion"])

    def watch(
        self, resource: Resource, namespace: str, version: str, **query: str
    ) -> Iterator[tuple[str, Object]]:
        """Yield ``(type, object)`` changes since a version, until the server closes the stream. Not
        tried again.

        Raises:
            GoneError: the version is too old. ApiException, urllib3.exceptions.HTTPError: the
            stream broke.
        """
        wanted = {
            **query,
            "watch": "1",
            "resourceVersion": version,
            # Bookmarks bring newer versions where nothing changes, so that a watch can go on from
            # them
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH_SECONDS),
        }
        with self._open("GET", _path(resource, namespace), wanted, silence=_SILENCE) as answer:
            for line in _lines(answer):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    if event["object"].get("code") == 410:
                        raise GoneError
                    raise ApiException(
                        status=event["object"].get("code"), reason=event["object"].get("message")
                    )
                yield event["type"], event["object"]

    def log(self, namespace: str, pod: str, container: str, **query: str) -> Iterator[str]:
        """Yield the lines of a container's log. Not tried again.

        Args:
            namespace, pod, container: whose.
            query: ``follow``, ``previous``, ``timestamps``, ``sinceTime``, ``tailLines`` as the API
                takes them.
        """
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/log"
        with self._open("GET", path, {"container": container, **query}, silence=_SILENCE) as answer:
            for line in _lines(answer):
                yield line.decode(errors="replace")

    def _json(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: Any = None
    ) -> Object:
        def call() -> Object:
            with self._open(method, path, query or {}, body=body) as answer:
                found = json.loads(answer.read())
            assert isinstance(found, dict)
            return found

        return self._retrying(call, f"{method} {path}")

    def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        *,
        body: Any = None,
        silence: float = _CALL,
    ) -> urllib3.HTTPResponse:
        answer = self._api.call_api(
            path,
            method,
            query_params=list(query.items()),
            body=body,
            auth_settings=["BearerToken"],
            header_params={"Accept": "application/json, */*", "Content-Type": "application/json"},
            # The open answer: streams are read as they come, and plain objects need no classes of
            # the client
            _preload_content=False,
            _return_http_data_only=True,
            # (connect, read): the second counts from the last byte
            _request_timeout=(_CALL, silence),
        )
        assert isinstance(answer, urllib3.HTTPResponse)
        return answer

    def _retrying(self, call: Callable[[], Result], what: str) -> Result:
        since, pause = time.monotonic(), _FIRST_PAUSE
        # An API that has never answered is more likely the wrong one than one that stutters.
        outage = self._outage if self._answered else min(self._outage, _FIRST_OUTAGE)
        while True:
            try:
                result = call()
                self._answered = True
                return result
            except ApiException as error:
                # A first 401 is a wrong token; a later one may be a token in the moment of its
                # rotation
                if not _is_passing(error) or (error.status == 401 and not self._answered):
                    raise _api_error(error, what) from error
                last = f"{error.status} {error.reason}"
            except (
                urllib3.exceptions.HTTPError,
                OSError,
                ValueError,
            ) as error:  # ValueError: an answer cut short
                last = f"{type(error).__name__}: {error}"
            if time.monotonic() - since > outage:
                raise PeerLostError(
                    f"the Kubernetes API has not answered for {outage:.0f} s: {last}",
                    code="VT-PEER-001",
                    where=what,
                    remedy="the job goes on; run the same step again and it is taken up",
                )
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


class _MissingError(Exception):
    """There is no such object."""


def own_namespace() -> str:
    """Return the namespace this process runs in; ``default`` outside of a cluster."""
    if named := os.environ.get(POD_NAMESPACE):
        return named
    return (
        _NAMESPACE_FILE.read_text(encoding="utf-8").strip()
        if _NAMESPACE_FILE.exists()
        else "default"
    )


def _is_passing(error: ApiException) -> bool:
    """Say whether an API error is one that goes away by itself."""
    # 401: a token that was just rotated. A webhook that does not answer yet is a 500.
    return error.status in (0, 401, 408, 429) or (error.status or 0) >= 500


def _api_error(error: ApiException, what: str) -> Exception:
    message = _message(error)
    if error.status == 404:
        return _MissingError(message)
    if error.status == 409:
        return ConflictError(message)
    remedies = {
        401: "the service account's token or the kubeconfig is not accepted",
        403: "the chart's Role allows what the launcher needs: install or upgrade it, and use its "
        "service "
        "account",
        400: "correct the setting that the message names",
        422: "correct the setting that the message names",
    }
    return UserError(
        f"the Kubernetes API refuses: {message}",
        code="VT-USE-052",
        where=what,
        remedy=remedies.get(error.status or 0, ""),
    )


def _message(error: ApiException) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return f"{error.status} {error.reason}"


def _path(resource: Resource, namespace: str, name: str = "") -> str:
    # Pods and events are of the core group, whose path has no name
    root = f"/apis/{resource.api_version}" if resource.group else f"/api/{resource.version}"
    return "/".join([root, "namespaces", namespace, resource.plural, *([name] if name else [])])


def _lines(answer: urllib3.HTTPResponse) -> Iterator[bytes]:
    """Yield whole lines of a stream as they come."""
    rest = b""
    for chunk in answer.stream(amt=None, decode_content=True):
        # A chunk may end within a line, or within a character
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
    if rest:
        yield rest
