"""A real Kueue beside a control plane: its queues, scheduler and PyTorchJob controller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from kubernetes import client

from tests.helpers.cluster.control_plane import ControlPlane
from tests.helpers.cluster.processes import HOME, Processes

GROUP, VERSION = "kueue.x-k8s.io", "v1beta2"
_CONFIGURATION: dict[str, Any] = {
    "apiVersion": "config.kueue.x-k8s.io/v1beta2",
    "kind": "Configuration",
    "health": {"healthProbeBindAddress": "0"},
    "metrics": {"bindAddress": "0"},
    "leaderElection": {"leaderElect": False},
    "internalCertManagement": {"enable": False},
    "integrations": {"frameworks": ["kubeflow.org/pytorchjob"]},
}


class Kueue:
    """Kueue's controllers as a process, and what its administrator makes.

    Args:
        control_plane: the cluster that it looks after.
        folder: where its configuration, certificate and log go.
    """

    def __init__(self, control_plane: ControlPlane, folder: Path) -> None:
        self.definitions = [
            yaml.safe_load(path.read_text(encoding="utf-8"))
            for path in sorted((HOME / "kueue").glob("*.yaml"))
        ]
        for definition in self.definitions:
            control_plane.apply_crd(definition)
        (folder / "kueue.yaml").write_text(yaml.safe_dump(_CONFIGURATION))
        (folder / "certificates").mkdir()
        self._api = client.CustomObjectsApi(control_plane.api)
        self._processes = Processes(folder)
        self._processes.start(
            "kueue",
            [
                f"--kubeconfig={control_plane.kubeconfig}",
                f"--config={folder / 'kueue.yaml'}",
                f"--certificates={folder / 'certificates'}",
            ],
        )

    def stop(self) -> None:
        """End the process."""
        self._processes.stop()

    def make(self, kind: str, name: str, body: dict[str, Any], namespace: str = "") -> None:
        """Create one of Kueue's objects."""
        whole = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": kind,
            "metadata": {"name": name},
            **body,
        }
        plural = f"{kind.lower()}es" if kind.endswith("s") else f"{kind.lower()}s"
        if namespace:
            self._api.create_namespaced_custom_object(GROUP, VERSION, namespace, plural, whole)
        else:
            self._api.create_cluster_custom_object(GROUP, VERSION, plural, whole)

    def make_queue(self, name: str, namespace: str, cpu: str) -> None:
        """Create a queue of a namespace with a quota; higher priorities preempt lower ones."""
        self.make("ResourceFlavor", name, {"spec": {}})
        resources = [
            {"name": "cpu", "nominalQuota": cpu},
            {"name": "memory", "nominalQuota": "100Gi"},
            {"name": "ephemeral-storage", "nominalQuota": "100Gi"},
        ]
        covered = [one["name"] for one in resources]
        self.make(
            "ClusterQueue",
            name,
            {
                "spec": {
                    "namespaceSelector": {},
                    "preemption": {"withinClusterQueue": "LowerPriority"},
                    "resourceGroups": [
                        {
                            "coveredResources": covered,
                            "flavors": [{"name": name, "resources": resources}],
                        }
                    ],
                }
            },
        )
        self.make("LocalQueue", name, {"spec": {"clusterQueue": name}}, namespace)
