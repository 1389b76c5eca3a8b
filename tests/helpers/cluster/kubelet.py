"""A kubelet for tests: pods bound to its node run as processes of this machine.

What is real: commands, environment, exit codes, signals and their grace, restart policies, memory
limits (the process
group is killed when it exceeds them), secrets, termination messages, logs through the API server.
What is not: images
(one whose name contains ``missing`` cannot be pulled; any other is this machine), mounts (a
variable whose value lies
below a mount's path is pointed to a folder; our ConfigMap and a service account's token are named
by variables),
names of pods (they become 127.0.0.1), and the port of a job's master, which is made unique on this
machine.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from kubernetes import client, watch
from kubernetes.client.exceptions import ApiException

from tests.helpers.cluster.pod_logs import LogFile, LogServer
from tests.helpers.cluster.pod_process import GONE, Object, PodProcess, now


class Kubelet:
    """One node, and the pods the scheduler binds to it.

    Args:
        api: a client that may do anything.
        name: the node's name.
        folder: where pods keep their files.
        gpus: fake GPUs the node offers.
        kubeconfig_of: gives a kubeconfig of a service account, by namespace and name.
    """

    def __init__(
        self,
        api: client.ApiClient,
        name: str,
        folder: Path,
        *,
        gpus: int = 0,
        kubeconfig_of: Callable[[str, str], Path] | None = None,
    ) -> None:
        self.name, self.folder, self.kubeconfig_of = name, folder, kubeconfig_of
        self.core = client.CoreV1Api(api)
        self.leases = client.CoordinationV1Api(api)
        self.api = api
        self.pods: dict[str, PodProcess] = {}
        self.stopped = threading.Event()
        self._server = LogServer(self._log)
        self._gpus = gpus
        self._register()
        for run in (self._beat, self._watch):
            threading.Thread(target=run, name=f"{name}-{run.__name__}", daemon=True).start()

    def stop(self) -> None:
        """Stop reporting and kill every process, as a node does that loses power."""
        self.stopped.set()
        for pod in list(self.pods.values()):
            pod.kill()
        self._server.stop()

    def processes(self) -> list[int]:
        """Return the leaders of all process groups that run."""
        return [
            pod.process.pid
            for pod in self.pods.values()
            if pod.process and pod.process.poll() is None
        ]

    def kill_pod(self, name: str, number: int = signal.SIGKILL) -> None:
        """Kill the running container of a pod, as the kernel would."""
        pod = next(pod for pod in self.pods.values() if pod.name == name and pod.process)
        pod.kill(number)

    def _register(self) -> None:
        room = {"cpu": "16", "memory": "64Gi", "pods": "50", "ephemeral-storage": "100Gi"}
        room |= {"nvidia.com/gpu": str(self._gpus)} if self._gpus else {}
        self.core.create_node(
            {
                "metadata": {"name": self.name, "labels": {"kubernetes.io/hostname": self.name}},
                "spec": {},
            }
        )
        self._conditions(
            "True",
            {
                "capacity": room,
                "allocatable": room,
                "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": self._server.port}},
            },
        )

    def _conditions(self, ready: str, more: Object | None = None) -> None:
        time = now()
        self.core.patch_node_status(
            self.name,
            {
                "status": {
                    **(more or {}),
                    "conditions": [
                        {
                            "type": "Ready",
                            "status": ready,
                            "reason": "TestKubelet",
                            "message": "",
                            "lastHeartbeatTime": time,
                            "lastTransitionTime": time,
                        }
                    ],
                }
            },
        )

    def _beat(self) -> None:
        body: Object = {
            "metadata": {"name": self.name, "namespace": "kube-node-lease"},
            "spec": {"holderIdentity": self.name, "leaseDurationSeconds": 20},
        }
        while not self.stopped.wait(4):
            body["spec"]["renewTime"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            try:
                try:
                    self.leases.patch_namespaced_lease(self.name, "kube-node-lease", body)
                except ApiException as error:
                    if error.status != 404:
                        raise
                    self.leases.create_namespaced_lease("kube-node-lease", body)
                self._conditions("True")
            except Exception:  # the API may be away; the next beat tells
                continue

    def _watch(self) -> None:
        while not self.stopped.is_set():
            try:
                stream = watch.Watch().stream(
                    self.core.list_pod_for_all_namespaces,
                    timeout_seconds=30,
                    field_selector=f"spec.nodeName={self.name}",
                )
                for event in stream:
                    if self.stopped.is_set():
                        return
                    self._take(event["type"], self.api.sanitize_for_serialization(event["object"]))
            except Exception:
                self.stopped.wait(0.5)

    def _take(self, kind: str, seen: Object) -> None:
        uid = seen["metadata"]["uid"]
        if kind == "DELETED":
            if pod := self.pods.pop(uid, None):
                pod.terminate(0)
                pod.kill()
            return
        if uid not in self.pods:
            if seen["metadata"].get("deletionTimestamp") or (seen.get("status") or {}).get(
                "phase"
            ) in ("Succeeded", "Failed"):
                self._remove(seen)
                return
            self.pods[uid] = PodProcess(self, seen)
        elif seen["metadata"].get("deletionTimestamp"):
            self.pods[uid].terminate(int(seen["metadata"].get("deletionGracePeriodSeconds") or 0))

    def _remove(self, seen: Object) -> None:
        if seen["metadata"].get("deletionTimestamp"):
            self.force_delete(
                seen["metadata"]["namespace"], seen["metadata"]["name"], seen["metadata"]["uid"]
            )

    def force_delete(self, namespace: str, name: str, uid: str) -> None:
        """Tell the API that a pod that was to be deleted has ended."""
        try:
            self.core.delete_namespaced_pod(
                name, namespace, body={"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
            )
        except ApiException as error:
            if error.status not in GONE:
                raise

    def _log(self, namespace: str, name: str, *, previous: bool) -> LogFile | None:
        for pod in reversed(list(self.pods.values())):
            if (pod.namespace, pod.name) == (namespace, name):
                return pod.previous_log if previous else pod.log
        return None
