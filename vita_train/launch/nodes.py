"""Several machines started by hand: who this one is among them, and the variables their network
needs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from vita_train.errors import UserError

#: Variables that the public trainer's launch scripts set for training over several machines.
#: ``--network public``
#: sets them, except where the environment says otherwise.
PUBLIC_NETWORK: dict[str, str] = {
    "CUDA_DEVICE_MAX_CONNECTIONS": "1",
    "NCCL_SOCKET_IFNAME": "eth0",
    "NCCL_IB_DISABLE": "0",
    "NCCL_IB_GID_INDEX": "3",
    "NCCL_P2P_DISABLE": "0",
    "NCCL_DEBUG": "INFO",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
}
NETWORKS: dict[str, dict[str, str]] = {"": {}, "public": PUBLIC_NETWORK}

#: Variables that do nothing any more, or never did, and what to use instead.
OBSOLETE: dict[str, str] = {
    "NCCL_IB_CUDA_SUPPORT": "GPU Direct RDMA is on where it can be; NCCL_NET_GDR_LEVEL limits it",
    "NCCL_TIMEOUT": "NCCL knows no such variable; launch.step_timeout says how long a step may "
    "take",
    "NCCL_ASYNC_ERROR_HANDLING": "its name is TORCH_NCCL_ASYNC_ERROR_HANDLING",
    "NCCL_BLOCKING_WAIT": "its name is TORCH_NCCL_BLOCKING_WAIT",
}

_PORT = 29500


@dataclass(frozen=True)
class Nodes:
    """This machine among those of a job."""

    count: int = 1
    rank: int = 0
    """Number of this machine, from 0."""
    master: str = ""
    """Address of machine 0, as the others reach it."""
    port: int = _PORT

    @property
    def torchrun(self) -> list[str]:
        """Torchrun's options for the rendezvous of the machines."""
        if self.count == 1:
            # On port 0 the kernel picks a free one, and the ranks share its store, so no port can
            # be in use.
            return [
                "--rdzv-backend",
                "c10d",
                "--rdzv-endpoint",
                "127.0.0.1:0",
                "--local-addr",
                "127.0.0.1",
            ]
        return [
            "--nnodes",
            str(self.count),
            "--node-rank",
            str(self.rank),
            "--master-addr",
            self.master,
            "--master-port",
            str(self.port),
        ]


def nodes_by_hand(
    count: int,
    rank: int | None = None,
    master: str = "",
    port: int | None = None,
    *,
    environment: Mapping[str, str] = os.environ,
) -> Nodes:
    """Return this machine's place; what no flag says is taken from ``INDEX``, ``MASTER_ADDR`` and
    ``MASTER_PORT``.

    Raises:
        UserError: with several machines, the number of this one or the address of the first is
            missing or wrong.
    """
    if count == 1:
        return Nodes()
    where = "--nnodes"
    try:
        number = rank if rank is not None else int(environment["INDEX"])
        to = port if port is not None else int(environment.get("MASTER_PORT") or _PORT)
    except KeyError:
        raise UserError(
            f"which of the {count} machines this is was not said",
            code="VT-USE-056",
            where=where,
            remedy="give --node-rank, or set INDEX: 0 on the first machine",
        ) from None
    except ValueError as error:
        raise UserError(
            f"INDEX or MASTER_PORT is not a whole number: {error}",
            code="VT-USE-057",
            where=where,
            remedy="give --node-rank and --master-port",
        ) from None
    if not 0 <= number < count:
        raise UserError(
            f"machine {number} is not one of {count}",
            code="VT-USE-058",
            where="--node-rank",
            remedy=f"number them from 0 to {count - 1}",
        )
    address = master or environment.get("MASTER_ADDR", "")
    if not address:
        raise UserError(
            "the address of the first machine was not said",
            code="VT-USE-059",
            where=where,
            remedy="give --master-addr, or set MASTER_ADDR, to an address that all machines reach",
        )
    return Nodes(count, number, address, to)


def network_environment(preset: str, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables of a preset that the environment does not set itself.

    Raises:
        UserError: there is no such preset.
    """
    if preset not in NETWORKS:
        raise UserError(
            f"there is no network preset {preset!r}",
            code="VT-USE-060",
            where="--network",
            remedy=f"presets are {', '.join(name for name in NETWORKS if name)}",
        )
    return {name: value for name, value in NETWORKS[preset].items() if name not in environment}


def obsolete_variables(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return a warning for each variable of the environment that has no effect."""
    return [
        f"{name} has no effect: {instead}"
        for name, instead in OBSOLETE.items()
        if name in environment
    ]
