"""A kubelet for tests: pods bound to its node run as processes of this machine.

What is real: commands, environment, exit codes, signals and their grace, restart policies, memory limits (the process
group is killed when it exceeds them), secrets, termination messages, logs through the API server. What is not: images
(one whose name contains ``missing`` cannot be pulled; any other is this machine), mounts (a variable whose value lies
below a mount's path is pointed to a folder), names of pods (they become 127.0.0.1), and the port of a job's master,
which is made unique on this machine.
"""

from __future__ import annotations

import base64
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from kubernetes import client, watch
from kubernetes.client.exceptions import ApiException
from pod_logs import LogFile, LogServer

Object = dict[str, Any]
_JOB = "training.kubeflow.org/job-name"
_PULL_PAUSE = 1.0
_UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


class Kubelet:
    """One node, and the pods the scheduler binds to it.

    Args:
        api: a client that may do anything.
        name: the node's name.
        folder: where pods keep their files.
        gpus: fake GPUs the node offers.
    """

    def __init__(self, api: client.ApiClient, name: str, folder: Path, *, gpus: int = 0) -> None:
        self.name, self.folder = name, folder
        self.core = client.CoreV1Api(api)
        self.leases = client.CoordinationV1Api(api)
        self.api = api
        self.pods: dict[str, _Pod] = {}
        self._stopped = threading.Event()
        self._server = LogServer(self._log)
        self._gpus = gpus
        self._register()
        for run in (self._beat, self._watch):
            threading.Thread(target=run, name=f"{name}-{run.__name__}", daemon=True).start()

    def stop(self) -> None:
        """Stop reporting and kill every process, as a node does that loses power."""
        self._stopped.set()
        for pod in list(self.pods.values()):
            pod.kill()
        self._server.stop()

    def processes(self) -> list[int]:
        """Return the leaders of all process groups that run."""
        return [pod.process.pid for pod in self.pods.values() if pod.process and pod.process.poll() is None]

    def kill_pod(self, name: str, number: int = signal.SIGKILL) -> None:
        """Kill the running container of a pod, as the kernel would."""
        pod = next(pod for pod in self.pods.values() if pod.name == name and pod.process)
        pod.kill(number)

    def _register(self) -> None:
        room = {"cpu": "16", "memory": "64Gi", "pods": "50", "ephemeral-storage": "100Gi"}
        room |= {"nvidia.com/gpu": str(self._gpus)} if self._gpus else {}
        self.core.create_node({"metadata": {"name": self.name, "labels": {"kubernetes.io/hostname": self.name}},
                               "spec": {}})
        self._conditions("True", {"capacity": room, "allocatable": room,
                                  "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                                  "daemonEndpoints": {"kubeletEndpoint": {"Port": self._server.port}}})

    def _conditions(self, ready: str, more: Object | None = None) -> None:
        now = _now()
        self.core.patch_node_status(self.name, {"status": {**(more or {}), "conditions": [
            {"type": "Ready", "status": ready, "reason": "TestKubelet", "message": "", "lastHeartbeatTime": now,
             "lastTransitionTime": now}]}})

    def _beat(self) -> None:
        body: Object = {"metadata": {"name": self.name, "namespace": "kube-node-lease"},
                        "spec": {"holderIdentity": self.name, "leaseDurationSeconds": 20}}
        while not self._stopped.wait(4):
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
        while not self._stopped.is_set():
            try:
                stream = watch.Watch().stream(self.core.list_pod_for_all_namespaces, timeout_seconds=30,
                                              field_selector=f"spec.nodeName={self.name}")
                for event in stream:
                    if self._stopped.is_set():
                        return
                    self._take(event["type"], self.api.sanitize_for_serialization(event["object"]))
            except Exception:
                self._stopped.wait(0.5)

    def _take(self, kind: str, seen: Object) -> None:
        uid = seen["metadata"]["uid"]
        if kind == "DELETED":
            if pod := self.pods.pop(uid, None):
                pod.kill()
            return
        if uid not in self.pods:
            if seen["metadata"].get("deletionTimestamp") or (seen.get("status") or {}).get("phase") in (
                    "Succeeded", "Failed"):
                self._remove(seen)
                return
            self.pods[uid] = _Pod(self, seen)
        elif seen["metadata"].get("deletionTimestamp"):
            self.pods[uid].terminate(int(seen["metadata"].get("deletionGracePeriodSeconds") or 0))

    def _remove(self, seen: Object) -> None:
        if seen["metadata"].get("deletionTimestamp"):
            self.force_delete(seen["metadata"]["namespace"], seen["metadata"]["name"])

    def force_delete(self, namespace: str, name: str) -> None:
        """Tell the API that a pod that was to be deleted has ended."""
        try:
            self.core.delete_namespaced_pod(name, namespace, grace_period_seconds=0)
        except ApiException as error:
            if error.status != 404:
                raise

    def _log(self, namespace: str, name: str, *, previous: bool) -> LogFile | None:
        for pod in reversed(list(self.pods.values())):
            if (pod.namespace, pod.name) == (namespace, name):
                return pod.previous_log if previous else pod.log
        return None


class _Pod:
    """One pod: its init containers one after another, then its one container."""

    def __init__(self, kubelet: Kubelet, seen: Object) -> None:
        self.kubelet, self.spec = kubelet, seen["spec"]
        self.namespace, self.name = seen["metadata"]["namespace"], seen["metadata"]["name"]
        self.labels, self.annotations = seen["metadata"].get("labels") or {}, seen["metadata"].get("annotations") or {}
        self.folder = kubelet.folder / seen["metadata"]["uid"]
        self.folder.mkdir(parents=True)
        self.process: subprocess.Popen[bytes] | None = None
        self.log: LogFile | None = None
        self.previous_log: LogFile | None = None
        self.restarts = 0
        self._terminating = threading.Event()
        self._oom = False
        self._last: Object = {}
        threading.Thread(target=self._run, name=self.name, daemon=True).start()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Signal the whole process group."""
        if self.process is not None and self.process.poll() is None:
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                return

    def terminate(self, grace: int) -> None:
        """SIGTERM now, SIGKILL after the grace."""
        if self._terminating.is_set():
            return
        self._terminating.set()
        self.kill(signal.SIGTERM)
        timer = threading.Timer(grace, self.kill)
        timer.daemon = True
        timer.start()

    def _run(self) -> None:
        try:
            container = self.spec["containers"][0]
            if not self._pulled(container):
                return
            for one in self.spec.get("initContainers") or ():
                if self._start(one) != 0:
                    self._report("Failed", {"terminated": _ended(self.process, 1, "")}, container)
                    return
            while True:
                code = self._start(container)
                if self.kubelet._stopped.is_set():
                    return
                again = self.spec.get("restartPolicy") in ("Always",) or (
                    self.spec.get("restartPolicy") == "OnFailure" and code != 0)
                ended = {"terminated": self._end(code)}
                if not again or self._terminating.is_set():
                    break
                self._last, self.restarts, self.previous_log = ended, self.restarts + 1, self.log
                self._report("Running", {"waiting": {"reason": "CrashLoopBackOff"}}, container)
                time.sleep(1)
            self._report("Succeeded" if code == 0 else "Failed", ended, container)
            if self._terminating.is_set():
                self.kubelet.force_delete(self.namespace, self.name)
        except ApiException as error:
            if error.status != 404:  # deleted meanwhile
                raise

    def _pulled(self, container: Object) -> bool:
        reasons = ("ErrImagePull", "ImagePullBackOff")
        turn = 0
        while "missing" in container["image"]:
            message = f"failed to pull image {container['image']!r}: not found"
            self._report("Pending", {"waiting": {"reason": reasons[min(turn, 1)], "message": message}}, container)
            turn += 1
            if self._terminating.wait(_PULL_PAUSE):
                self.kubelet.force_delete(self.namespace, self.name)
                return False
        return True

    def _start(self, container: Object) -> int:
        words = self.folder / "termination-log"
        words.unlink(missing_ok=True)
        env = self._environment(container)
        if env is None:
            return 1
        self.log = LogFile(self.folder / f"{container['name']}-{self.restarts}.log")
        self._oom = False
        command = [*container.get("command", ()), *container.get("args", ())]
        command[0] = sys.executable if command[0] == "python" else command[0]
        self.process = subprocess.Popen(command, env={**env, "VITA_TRAIN_TERMINATION_LOG": str(words)},
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        start_new_session=True, cwd=self.folder)
        if container is self.spec["containers"][0]:
            self._report("Running", {"running": {"startedAt": _now()}}, container)
        limit = _bytes((container.get("resources") or {}).get("limits", {}).get("memory", ""))
        if limit:
            threading.Thread(target=self._guard, args=(self.process, limit), daemon=True).start()
        if self._terminating.is_set():
            self.kill(signal.SIGTERM)
        assert self.process.stdout is not None
        self.log.take(self.process.stdout)
        return self.process.wait()

    def _guard(self, process: subprocess.Popen[bytes], limit: int) -> None:
        while process.poll() is None:
            try:
                family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
                used = sum(one.memory_full_info().uss for one in family)
            except psutil.Error:
                used = 0
            if used > limit:
                self._oom = True
                self.kill()
            time.sleep(0.5)

    def _environment(self, container: Object) -> dict[str, str] | None:
        mounts = {mount["mountPath"]: self.folder / mount["name"] for mount in container.get("volumeMounts") or ()}
        env = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOSTNAME": self.name,
               **{name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}}
        for entry in container.get("env") or ():
            value = entry.get("value", "")
            source = entry.get("valueFrom") or {}
            if reference := source.get("secretKeyRef"):
                try:
                    secret = self.kubelet.core.read_namespaced_secret(reference["name"], self.namespace)
                except ApiException:
                    self._report("Pending", {"waiting": {
                        "reason": "CreateContainerConfigError",
                        "message": f'secret "{reference["name"]}" not found'}}, container)
                    self._terminating.wait()
                    self.kubelet.force_delete(self.namespace, self.name)
                    return None
                value = base64.b64decode(secret.data[reference["key"]]).decode()
            elif reference := source.get("fieldRef"):
                _, _, rest = reference["fieldPath"].partition("['")
                value = {**self.labels, **self.annotations}.get(rest.rstrip("]'"), "")
            env[entry["name"]] = self._translated(entry["name"], value, mounts)
        for folder in mounts.values():
            folder.mkdir(exist_ok=True)
        return env

    def _translated(self, name: str, value: str, mounts: dict[str, Path]) -> str:
        job = self.labels.get(_JOB, "")
        if name.endswith("MASTER_PORT"):
            return str(20000 + int(hashlib.sha256(job.encode()).hexdigest(), 16) % 10000)
        if name.endswith("MASTER_ADDR"):
            return "127.0.0.1"
        for path, folder in mounts.items():
            if value == path or value.startswith(path + "/"):
                return str(folder) + value[len(path):]
        return value

    def _end(self, code: int) -> Object:
        words = self.folder / "termination-log"
        message = words.read_text() if words.exists() else ""
        if not message and code and self.log:
            message = self.log.tail(80)[-2048:]
        return _ended(self.process, 128 - code if code < 0 else code, message, oom=self._oom)

    def _report(self, phase: str, state: Object, container: Object) -> None:
        status = {"name": container["name"], "image": container["image"], "imageID": "", "ready": "running" in state,
                  "started": "running" in state, "restartCount": self.restarts, "state": state,
                  **({"lastState": self._last} if self._last else {})}
        condition = {"type": "Ready", "status": "True" if "running" in state else "False", "lastTransitionTime": _now()}
        self.kubelet.core.patch_namespaced_pod_status(self.name, self.namespace, {"status": {
            "phase": phase, "hostIP": "127.0.0.1", "podIP": "127.0.0.1", "startTime": _now(),
            "containerStatuses": [status], "conditions": [condition]}})


def _ended(process: subprocess.Popen[bytes] | None, code: int, message: str, *, oom: bool = False) -> Object:
    reason = "OOMKilled" if oom else "Completed" if code == 0 else "Error"
    return {"exitCode": code, "reason": reason, "message": message, "startedAt": _now(), "finishedAt": _now(),
            "containerID": f"process://{process.pid if process else 0}"}


def _bytes(quantity: str) -> int:
    for unit, size in _UNITS.items():
        if quantity.endswith(unit):
            return int(float(quantity.removesuffix(unit)) * size)
    return int(quantity or 0)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
