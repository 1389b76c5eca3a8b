"""A real Kubernetes control plane on this machine: etcd, API server, controllers, scheduler,
PyTorchJob controller.

Built by ``tests/cluster/build.sh`` from pinned Go modules. Everything lies in one folder and
listens on 127.0.0.1, but
for an API server that is to be reached by pods with a network of their own.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from kubernetes import client, config

from tests.helpers.cluster.processes import HOME, Processes

PROGRAMS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "training-operator",
)
_ADMIN = "test-admin-token"
_INIT_CONTAINER = "- name: init-pytorch\n  image: this-machine\n  command: ['true']\n"


def minimal_definition(group: str, version: str, kind: str) -> dict[str, Any]:
    """Return a resource definition that any content passes, for a kind whose own definition is not
    at hand."""
    plural = f"{kind.lower()}s"
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "x-kubernetes-preserve-unknown-fields": True,
                        }
                    },
                }
            ],
        },
    }


class ControlPlane:
    """The processes of one cluster.

    Args:
        folder: where they keep everything.
        address: where the API server listens, 127.0.0.1 unless pods have a network of their own;
            then that of the service by which they find it.
        init_container: template of what the workers of a PyTorchJob run first. The controller's own
            asks for nslookup, which a bare machine may not have.
    """

    def __init__(
        self, folder: Path, *, address: str = "127.0.0.1", init_container: str = _INIT_CONTAINER
    ) -> None:
        self.folder = folder
        port = _free_port() if address == "127.0.0.1" else 443
        self.server = f"https://{address}:{port}"
        self.authority = folder / "certs" / "apiserver.crt"
        self._keys()
        self._processes = Processes(folder)
        start, until = self._processes.start, self._processes.until
        etcd = f"http://127.0.0.1:{_free_port()}"
        peers = f"http://127.0.0.1:{_free_port()}"
        start(
            "etcd",
            [
                "--data-dir",
                str(folder / "etcd"),
                "--listen-client-urls",
                etcd,
                "--unsafe-no-fsync",
                "--advertise-client-urls",
                etcd,
                "--listen-peer-urls",
                peers,
                "--initial-advertise-peer-urls",
                peers,
                "--initial-cluster",
                f"default={peers}",
            ],
        )
        key, public = str(folder / "accounts.key"), str(folder / "accounts.pub")
        start(
            "kube-apiserver",
            [
                f"--etcd-servers={etcd}",
                f"--bind-address={address}",
                f"--secure-port={port}",
                f"--cert-dir={folder / 'certs'}",
                "--endpoint-reconciler-type=none",
                "--authorization-mode=Node,RBAC",
                f"--token-auth-file={folder / 'tokens.csv'}",
                "--allow-privileged=true",
                "--profiling=false",
                "--service-cluster-ip-range=10.96.0.0/24",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={public}",
                f"--service-account-signing-key-file={key}",
                "--kubelet-preferred-address-types=InternalIP",
            ],
        )
        until(self.authority.exists, "the API server's certificate")
        self.kubeconfig = self.write_kubeconfig("admin", _ADMIN)
        self.api = client.ApiClient(self.settings("admin"))
        until(self._is_ready, "the API server")
        common = [
            f"--kubeconfig={self.kubeconfig}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
        ]
        start(
            "kube-controller-manager",
            [
                *common,
                "--use-service-account-credentials=true",
                f"--service-account-private-key-file={key}",
                f"--root-ca-file={self.authority}",
                f"--secure-port={_free_port()}",
                "--node-monitor-period=2s",
                "--node-monitor-grace-period=20s",
                "--concurrent-gc-syncs=4",
            ],
        )
        start("kube-scheduler", [*common, f"--secure-port={_free_port()}"])
        self.apply_crd(
            yaml.safe_load((HOME / "kubeflow.org_pytorchjobs.yaml").read_text(encoding="utf-8"))
        )
        (folder / "init.yaml").write_text(init_container)
        start(
            "training-operator",
            [
                f"--kubeconfig={self.kubeconfig}",
                f"--init-container-template={folder / 'init.yaml'}",
            ],
        )
        until(self._has_accounts, "the controller manager")

    def stop(self) -> None:
        """End all processes."""
        self._processes.stop()

    def settings(self, user: str) -> client.Configuration:
        """Return a client configuration of a user whose kubeconfig was written."""
        found = client.Configuration()
        config.load_kube_config(str(self.folder / f"{user}.kubeconfig"), client_configuration=found)
        return found

    def write_kubeconfig(self, user: str, token: str, namespace: str = "default") -> Path:
        """Write a kubeconfig with a bearer token and return its path."""
        path = self.folder / f"{user}.kubeconfig"
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "test",
                    "clusters": [
                        {
                            "name": "test",
                            "cluster": {
                                "server": self.server,
                                "certificate-authority": str(self.authority),
                            },
                        }
                    ],
                    "users": [{"name": user, "user": {"token": token}}],
                    "contexts": [
                        {
                            "name": "test",
                            "context": {"cluster": "test", "user": user, "namespace": namespace},
                        }
                    ],
                }
            )
        )
        return path

    def kubeconfig_of(self, namespace: str, account: str) -> Path:
        """Write a kubeconfig of a service account and return its path."""
        token = (
            client.CoreV1Api(self.api)
            .create_namespaced_service_account_token(account, namespace, {"spec": {}})
            .status.token
        )
        return self.write_kubeconfig(f"{namespace}-{account}", token, namespace)

    def apply_crd(self, definition: dict[str, Any]) -> None:
        """Create a resource definition; wait until it is served."""
        api = client.ApiextensionsV1Api(self.api)
        api.create_custom_resource_definition(definition)
        name = definition["metadata"]["name"]

        def is_served() -> bool:
            conditions = api.read_custom_resource_definition(name).status.conditions or ()
            return any(one.type == "Established" and one.status == "True" for one in conditions)

        self._processes.until(is_served, name)

    @contextmanager
    def serving(self, *definitions: dict[str, Any]) -> Iterator[None]:
        """Serve further kinds for a while; tests go by what is served."""
        api = client.ApiextensionsV1Api(self.api)
        names = {str(one["metadata"]["name"]) for one in definitions}
        for definition in definitions:
            self.apply_crd(definition)
        try:
            yield
        finally:
            for name in names:
                api.delete_custom_resource_definition(name)
            self._processes.until(
                lambda: (
                    not names
                    & {one.metadata.name for one in api.list_custom_resource_definition().items}
                ),
                f"the end of {names}",
            )

    def namespace(self, name: str) -> str:
        """Create a namespace, and wait for its default service account."""
        core = client.CoreV1Api(self.api)
        core.create_namespace({"metadata": {"name": name}})
        self._processes.until(
            lambda: bool(core.list_namespaced_service_account(name).items), f"namespace {name}"
        )
        return name

    def _keys(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        (self.folder / "accounts.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )
        (self.folder / "accounts.pub").write_bytes(
            key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        (self.folder / "tokens.csv").write_text(f'{_ADMIN},admin,admin,"system:masters"\n')

    def _is_ready(self) -> bool:
        answer = self.api.call_api(
            "/readyz",
            "GET",
            auth_settings=["BearerToken"],
            _preload_content=False,
            _return_http_data_only=True,
        )
        return bool(answer.status == 200)

    def _has_accounts(self) -> bool:
        return bool(client.CoreV1Api(self.api).list_namespaced_service_account("default").items)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
