"""A node that runs containers: kubelet, containerd and runc, and CoreDNS for the names of pods.

It needs what ``tests/cluster/build.sh node`` and ``tests.images.build_all`` build, and the
namespaces of
``tests/cluster/in_namespaces.sh``. Unlike under the kubelet of the other tests, images, mounts,
users, seccomp, read-only file systems, network namespaces and memory limits are those of a cluster.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import yaml
from kubernetes import client

from tests.helpers.cluster.control_plane import ControlPlane
from tests.helpers.cluster.processes import HOME, Processes
from tests.helpers.cluster.processes import missing as not_built
from tests.helpers.images.engine import PAUSE, Engine
from tests.helpers.images.engine import missing as no_engine

#: Where the API server, the cluster's names and this machine's other servers are found by pods.
API, NAMES, HERE = "10.96.0.1", "10.96.0.10", "10.99.0.1"
#: Environment variable: where the node keeps everything; short, because sockets lie there, whose
#: paths must be. The
#: control group of its pods has the same name.
FOLDER = "VITA_TRAIN_NODE"
_PROGRAMS = (
    "kubelet",
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "bridge",
    "loopback",
    "host-local",
    "coredns",
)


def missing() -> str:
    """Return what keeps such a node from running here, as a message to skip with; empty if nothing
    does."""
    if why := not_built(_PROGRAMS):
        return f"{why} node"
    if FOLDER not in os.environ:
        return (
            "a node needs namespaces of its own; `make test-node` makes them and runs these tests"
        )
    return no_engine()


def take_addresses() -> None:
    """Give this machine the addresses of services, which pods on a bridge of it reach without any
    forwarding."""
    for address in (API, NAMES, HERE):
        subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)


class RealNode:
    """A node with containers; its images are there already.

    Args:
        plane: the control plane, which pods find at `API`; see `take_addresses`.
        images: what its pods may run, built by podman; it cannot pull any.
    """

    name = "node-real"

    def __init__(self, plane: ControlPlane, images: Sequence[str]) -> None:
        self._plane = plane
        self.folder = Path(os.environ[FOLDER])
        self._processes = Processes(self.folder)
        start, until = self._processes.start, self._processes.until
        start("coredns", ["-conf", str(self._write("Corefile", _corefile(plane.kubeconfig)))])
        runtime = self.folder / "containerd.sock"
        start(
            "containerd",
            ["--config", str(self._write("containerd.toml", self._containerd(runtime)))],
        )
        until(runtime.exists, "containerd")
        self._take(runtime, images)
        start(
            "kubelet",
            [
                f"--config={self._write('kubelet.yaml', self._kubelet(runtime))}",
                f"--kubeconfig={plane.kubeconfig}",
                f"--root-dir={self.folder / 'kubelet'}",
                f"--cert-dir={self.folder / 'certs'}",
                f"--hostname-override={self.name}",
                f"--node-ip={HERE}",
            ],
        )
        until(self._is_ready, "the node")

    def stop(self) -> None:
        """End the node; what is left of its containers goes with their namespaces."""
        self._processes.stop()

    def _containerd(self, runtime: Path) -> str:
        network = self.folder / "network"
        network.mkdir()
        (network / "pods.conflist").write_text(
            json.dumps(
                {
                    "cniVersion": "1.0.0",
                    "name": "pods",
                    "plugins": [
                        {
                            "type": "bridge",
                            "bridge": "pods0",
                            "isGateway": True,
                            "hairpinMode": True,
                            "ipam": {
                                "type": "host-local",
                                "dataDir": str(self.folder / "addresses"),
                                "routes": [{"dst": "0.0.0.0/0"}],
                                "ranges": [[{"subnet": "10.98.0.0/24"}]],
                            },
                        }
                    ],
                }
            )
        )
        # This machine's root may not raise limits, and it has no AppArmor.
        return f"""
version = 3
root = "{self.folder / "containerd"}"
state = "/run/containerd"
[grpc]
address = "{runtime}"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{PAUSE}"
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
disable_apparmor = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["{HOME / "bin"}"]
conf_dir = "{network}"
"""

    def _kubelet(self, runtime: Path) -> str:
        # Names that no cluster knows are refused at once: waiting for a server that is not there
        # takes seconds a name.
        names = self._write("resolv.conf", "nameserver 127.0.0.1\n")
        return yaml.safe_dump(
            {
                "apiVersion": "kubelet.config.k8s.io/v1beta1",
                "kind": "KubeletConfiguration",
                "address": HERE,
                "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
                "authorization": {"mode": "AlwaysAllow"},
                "readOnlyPort": 0,
                "healthzPort": 0,
                "clusterDNS": [NAMES],
                "clusterDomain": "cluster.local",
                "resolvConf": str(names),
                "containerRuntimeEndpoint": f"unix://{runtime}",
                "cgroupDriver": "cgroupfs",
                "cgroupRoot": f"/{self.folder.name}",
                "podLogsDir": str(self.folder / "logs"),
                "enforceNodeAllocatable": ["none"],
                "oomScoreAdj": 0,
                "failCgroupV1": False,
                "failSwapOn": False,
                "makeIPTablesUtilChains": False,
                "localStorageCapacityIsolation": False,
                "imageGCHighThresholdPercent": 100,
                "evictionHard": dict.fromkeys(
                    ("memory.available", "nodefs.available", "imagefs.available"), "0%"
                ),
            }
        )

    def _take(self, runtime: Path, images: Sequence[str]) -> None:
        """Hand images over, without a second copy of their layers."""
        with Engine(self.folder).pipe([PAUSE, *images]) as archive:
            done = subprocess.run(
                [
                    HOME / "bin" / "ctr",
                    "--address",
                    runtime,
                    "--namespace",
                    "k8s.io",
                    "images",
                    "import",
                    "--local",
                    "--discard-unpacked-layers",
                    "-",
                ],
                stdin=archive.stdout,
                capture_output=True,
                text=True,
                check=False,
            )
        assert (done.returncode, archive.returncode) == (0, 0), (
            done.stdout[-2000:] + done.stderr[-2000:]
        )

    def _is_ready(self) -> bool:
        node = client.CoreV1Api(self._plane.api).read_node_status(self.name)
        return any(
            one.type == "Ready" and one.status == "True" for one in node.status.conditions or ()
        )

    def _write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path


def _corefile(kubeconfig: Path) -> str:
    # Names of elsewhere are refused at once. In one block with the cluster's, that rule would come
    # first.
    return (
        f"cluster.local {{\n  bind {NAMES}\n  kubernetes {{\n    kubeconfig {kubeconfig}\n  "
        f"}}\n}}\n"
        f". {{\n  bind {NAMES}\n  template ANY ANY {{\n    rcode NXDOMAIN\n  }}\n}}\n"
    )
