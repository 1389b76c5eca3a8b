"""A whole SLURM of this machine: munged, slurmctld, and nodes that are slurmd processes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
_CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
SlurmdTimeout=10
KillWait=5
SchedulerParameters=sched_interval=1,batch_sched_delay=0
AccountingStorageType=accounting_storage/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n[0-1] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=4 RealMemory=4000
PartitionName=low Nodes=n[0-1] Default=YES PriorityTier=1 GraceTime=60 MaxTime=INFINITE
PartitionName=high Nodes=n[0-1] PriorityTier=10 PreemptMode=OFF
"""


def missing() -> str:
    """Return what is not installed, as a message to skip with; empty if nothing is missing."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    absent = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    return (
        f"no {', '.join(absent)}: install slurmctld, slurmd, slurm-client and munge"
        if absent
        else ""
    )


class SlurmCluster:
    """Two nodes, ``n0`` and ``n1``; jobs of partition ``high`` preempt those of ``low``.

    Args:
        folder: gets settings, state and logs; short, since a socket lies in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("state", "spool-n0", "spool-n1"):
            (folder / name).mkdir()
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        first = _free_ports(3)
        self.config = folder / "slurm.conf"
        self.config.write_text(
            _CONFIG.format(
                host=socket.gethostname(),
                folder=folder,
                user="root" if os.geteuid() == 0 else os.environ["USER"],
                port=first,
                first=first + 1,
                last=first + 2,
            )
        )
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(self.config),
            "PATH": f"{os.environ['PATH']}:/usr/sbin",
        }
        munge = [f"--{name}={folder}/munge.{ending}" for name, ending in (
            ("key-file", "key"), ("socket", "socket"), ("pid-file", "pid"),
            ("log-file", "log"), ("seed-file", "seed"))]  # fmt: skip
        self._start("munged", "--foreground", "--force", *munge)
        self.until(lambda: (folder / "munge.socket").exists(), "munged")
        self.start_controller()
        for node in ("n0", "n1"):
            self.start_node(node)
        self.until(lambda: self.ask("sinfo", "-h", "-o", "%T %D") == "idle 2", "two idle nodes")

    def start_controller(self) -> None:
        """Start the controller, from the state that an earlier one left."""
        self._start("slurmctld", "-D")

    def start_node(self, node: str) -> None:
        """Start a node."""
        self._start(node, "-D", "-N", node, program="slurmd")

    def lose(self, name: str) -> None:
        """End the controller (``slurmctld``), or kill a node with all that runs there."""
        process = self._running.pop(name)
        if name == "slurmctld":  # it saves its state: a killed one may forget its last jobs
            process.terminate()
        else:
            process.kill()
        tasks = _tasks(name, str(self.config))
        # A step's daemon has neither parent nor name, but its tasks lead to it. It goes first, or
        # it would tell of the death of its task.
        for pid in [*({_parent(pid) for pid in tasks} - tasks), *tasks]:
            _kill(pid)
        process.wait()

    def ask(self, *command: str) -> str:
        """Return what one of SLURM's commands prints."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    def until(self, is_so: Callable[[], object], what: str, seconds: float = 60) -> None:
        """Wait for something."""
        deadline = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < deadline, f"{what} did not come; logs are in {self.folder}"
            time.sleep(0.2)

    def stop(self) -> None:
        """Stop everything."""
        self.ask("scancel", "--user", str(os.geteuid()))
        for process in reversed(self._running.values()):
            process.terminate()
        for process in self._running.values():
            process.wait(timeout=30)

    def _start(self, name: str, *arguments: str, program: str = "") -> None:
        log = (self.folder / f"{name}.log").open("ab")
        self._running[name] = subprocess.Popen(
            [program or name, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=self.environment,
        )


def _free_ports(count: int) -> int:
    """Return the first of so many ports in a row that nothing listens on."""
    for first in range(17000, 19000, count):
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise AssertionError("no free ports")


def _tasks(node: str, config: str) -> set[int]:
    """Return the processes of all jobs on a node of the cluster of a configuration."""
    wanted = {f"SLURMD_NODENAME={node}".encode(), f"SLURM_CONF={config}".encode()}
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if wanted <= set((entry / "environ").read_bytes().split(b"\0")):
                    found.add(int(entry.name))
    return found


def _parent(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pid


def _kill(pid: int) -> None:
    if pid > 1:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
