"""A pod of the test kubelet: its containers as processes of this machine, and what is reported of
them."""

from __future__ import annotations

import base64
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import psutil
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from tests.helpers.cluster.pod_logs import LogFile
from vita_train.launch.kubernetes.api import POD_NAMESPACE
from vita_train.recipe.platform import FOLDER, PLATFORM

Object = dict[str, Any]
_JOB = "training.kubeflow.org/job-name"
_PULL_PAUSE = 1.0
#: What the API answers about a pod that is not there any more, or whose name another has by now.
GONE = (404, 409)
_UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


class Node(Protocol):
    """What a pod needs of its node."""

    folder: Path
    core: client.CoreV1Api
    stopped: threading.Event
    kubeconfig_of: Callable[[str, str], Path] | None

    def force_delete(self, namespace: str, name: str, uid: str) -> None:
        """Tell the API that a pod that was to be deleted has ended."""


class PodProcess:
    """One pod: its init containers one after another, then its one container."""

    def __init__(self, node: Node, seen: Object) -> None:
        self.node, self.spec = node, seen["spec"]
        self.namespace, self.name = seen["metadata"]["namespace"], seen["metadata"]["name"]
        self.uid = seen["metadata"]["uid"]
        self.labels, self.annotations = (
            seen["metadata"].get("labels") or {},
            seen["metadata"].get("annotations") or {},
        )
        self.folder = node.folder / self.uid
        self.folder.mkdir(parents=True)
        self.process: subprocess.Popen[bytes] | None = None
        self.log: LogFile | None = None
        self.previous_log: LogFile | None = None
        self.restarts = 0
        self._terminating, self._over = threading.Event(), threading.Event()
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
        if (
            self._over.is_set()
        ):  # it ended by itself before anybody here heard that it is to be deleted
            self.node.force_delete(self.namespace, self.name, self.uid)

    def _run(self) -> None:
        container = self.spec["containers"][0]
        try:
            if self._pulled(container):
                code = self._initialised() or self._run_container(container)
                if self.node.stopped.is_set():
                    return
                self._report(
                    "Succeeded" if code == 0 else "Failed",
                    {"terminated": self._end(code)},
                    container,
                )
            self._over.set()
            if self._terminating.is_set():
                self.node.force_delete(self.namespace, self.name, self.uid)
        except ApiException as error:
            self.kill()
            if error.status not in GONE:
                raise

    def _initialised(self) -> int:
        return next(
            (code for one in self.spec.get("initContainers") or () if (code := self._start(one))), 0
        )

    def _run_container(self, container: Object) -> int:
        while True:
            code = self._start(container)
            again = self.spec.get("restartPolicy") == "Always" or (
                self.spec.get("restartPolicy") == "OnFailure" and code != 0
            )
            if not again or self._terminating.is_set() or self.node.stopped.is_set():
                return code
            self._last = {"terminated": self._end(code)}
            self.restarts, self.previous_log = self.restarts + 1, self.log
            self._report("Running", {"waiting": {"reason": "CrashLoopBackOff"}}, container)
            self._terminating.wait(1)

    def _pulled(self, container: Object) -> bool:
        reasons = ("ErrImagePull", "ImagePullBackOff")
        turn = 0
        while "missing" in container["image"]:
            message = f"failed to pull image {container['image']!r}: not found"
            self._report(
                "Pending",
                {"waiting": {"reason": reasons[min(turn, 1)], "message": message}},
                container,
            )
            turn += 1
            if self._terminating.wait(_PULL_PAUSE):
                return False
        return True

    def _start(self, container: Object) -> int:
        words = self.folder / "termination-log"
        words.unlink(missing_ok=True)
        env = self._environment(container)
        if env is None or self._terminating.is_set():
            return 128 + signal.SIGTERM
        self.log = LogFile(self.folder / f"{container['name']}-{self.restarts}.log")
        self._oom = False
        command = [*container.get("command", ()), *container.get("args", ())]
        command[0] = {
            "python": sys.executable,
            "vita-train": str(Path(sys.executable).with_name("vita-train")),
        }.get(command[0], command[0])
        self.process = subprocess.Popen(
            command,
            env={**env, "VITA_TRAIN_TERMINATION_LOG": str(words)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=self.folder,
        )
        if container is self.spec["containers"][0]:
            self._report("Running", {"running": {"startedAt": now()}}, container)
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
                family = [
                    psutil.Process(process.pid),
                    *psutil.Process(process.pid).children(recursive=True),
                ]
                used = sum(one.memory_full_info().uss for one in family)
            except psutil.Error:
                used = 0
            if used > limit:
                self._oom = True
                self.kill()
            time.sleep(0.5)

    def _environment(self, container: Object) -> dict[str, str] | None:
        mounts = {
            mount["mountPath"]: self.folder / mount["name"]
            for mount in container.get("volumeMounts") or ()
        }
        env = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOSTNAME": self.name,
            **{name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ},
        }
        for entry in container.get("env") or ():
            value = entry.get("value", "")
            source = entry.get("valueFrom") or {}
            if reference := source.get("secretKeyRef"):
                try:
                    secret = self.node.core.read_namespaced_secret(
                        reference["name"], self.namespace
                    )
                except ApiException:
                    self._report(
                        "Pending",
                        {
                            "waiting": {
                                "reason": "CreateContainerConfigError",
                                "message": f'secret "{reference["name"]}" not found',
                            }
                        },
                        container,
                    )
                    self._terminating.wait()
                    return None
                value = base64.b64decode(secret.data[reference["key"]]).decode()
            elif reference := source.get("fieldRef"):
                _, _, rest = reference["fieldPath"].partition("['")
                value = {**self.labels, **self.annotations}.get(rest.rstrip("]'"), "")
            env[entry["name"]] = self._translated(entry["name"], value, mounts)
        for folder in mounts.values():
            folder.mkdir(exist_ok=True)
        return {**env, **self._identity(), **self._platform(mounts)}

    def _identity(self) -> dict[str, str]:
        account, get = self.spec.get("serviceAccountName", ""), self.node.kubeconfig_of
        if (
            get is None
            or account in ("", "default")
            or self.spec.get("automountServiceAccountToken") is False
        ):
            return {}
        return {"KUBECONFIG": str(get(self.namespace, account)), POD_NAMESPACE: self.namespace}

    def _platform(self, mounts: dict[str, Path]) -> dict[str, str]:
        volumes = {
            one["name"]: one["configMap"]["name"]
            for one in self.spec.get("volumes") or ()
            if "configMap" in one
        }
        folder = mounts.get(str(FOLDER))
        if folder is None or folder.name not in volumes:
            return {}
        found = self.node.core.read_namespaced_config_map(volumes[folder.name], self.namespace)
        for name, text in found.data.items():
            (folder / name).write_text(text)
        return {PLATFORM: str(folder / "platform.yaml")}

    def _translated(self, name: str, value: str, mounts: dict[str, Path]) -> str:
        job = self.labels.get(_JOB, "")
        if name.endswith("MASTER_PORT"):
            return str(20000 + int(hashlib.sha256(job.encode()).hexdigest(), 16) % 10000)
        if name.endswith("MASTER_ADDR"):
            return "127.0.0.1"
        for path, folder in mounts.items():
            if value == path or value.startswith(path + "/"):
                return str(folder) + value[len(path) :]
        return value

    def _end(self, code: int) -> Object:
        words = self.folder / "termination-log"
        message = words.read_text() if words.exists() else ""
        if not message and code and self.log:
            message = self.log.tail(80)[-2048:]
        return _ended(self.process, 128 - code if code < 0 else code, message, oom=self._oom)

    def _report(self, phase: str, state: Object, container: Object) -> None:
        status = {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": "running" in state,
            "started": "running" in state,
            "restartCount": self.restarts,
            "state": state,
            **({"lastState": self._last} if self._last else {}),
        }
        condition = {
            "type": "Ready",
            "status": "True" if "running" in state else "False",
            "lastTransitionTime": now(),
        }
        # A controller may have made another of this name by now: the uid says which is meant.
        body = {
            "metadata": {"uid": self.uid},
            "status": {
                "phase": phase,
                "hostIP": "127.0.0.1",
                "podIP": "127.0.0.1",
                "startTime": now(),
                "containerStatuses": [status],
                "conditions": [condition],
            },
        }
        self.node.core.patch_namespaced_pod_status(self.name, self.namespace, body)


def _ended(
    process: subprocess.Popen[bytes] | None, code: int, message: str, *, oom: bool = False
) -> Object:
    reason = "OOMKilled" if oom else "Completed" if code == 0 else "Error"
    return {
        "exitCode": code,
        "reason": reason,
        "message": message,
        "startedAt": now(),
        "finishedAt": now(),
        "containerID": f"process://{process.pid if process else 0}",
    }


def _bytes(quantity: str) -> int:
    for unit, size in _UNITS.items():
        if quantity.endswith(unit):
            return int(float(quantity.removesuffix(unit)) * size)
    return int(quantity or 0)


def now() -> str:
    """Return the time as the API writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
