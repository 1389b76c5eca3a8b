"""The process group of a stage: start, small sums, orderly end."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from vita_train.errors import PeerLostError, RecipeError

#: Texts by which gloo and NCCL say that a connection or a peer is gone.
_LOST = (
    "connection closed by peer",
    "connection reset by peer",
    "connection refused",
    "broken pipe",
    "socket timeout",
    "timed out waiting",
    "nccl communicator was aborted",
    "remote process exited",
    "connection was likely closed",
    "application timeout caused pair closure",
)
#: Longest time that ranks wait for one that computes by itself.
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class World:
    """This process among the ranks of a stage."""

    rank: int
    size: int
    local_rank: int
    device: torch.device
    node_size: int = 0
    """Ranks of each node; 0 where all are on one."""

    @property
    def nodes(self) -> int:
        """Nodes that the ranks are on."""
        return self.size // (self.node_size or self.size)


ALONE = World(0, 1, 0, torch.device("cpu"))
"""A process that trains by itself, without a GPU."""


def world_from_environment() -> World:
    """Return rank, size and device from the variables torchrun sets; a single process without
    them."""
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    return World(
        int(os.environ.get("RANK", "0")),
        int(os.environ.get("WORLD_SIZE", "1")),
        local_rank,
        device,
        int(os.environ.get("LOCAL_WORLD_SIZE", "0")),
    )


@contextmanager
def process_group(world: World, *, timeout: float, always: bool = False) -> Iterator[None]:
    """Join the process group for the time of the block. CPU tensors travel over gloo, CUDA tensors
    over NCCL.

    Args:
        timeout: seconds a collective may wait before it raises; the watchdog is meant to act
            before.
        always: open a group of one rank too (engines that cannot do without).
    """
    if world.size == 1 and not always:
        yield
        return
    if world.device.type == "cuda":
        # NCCL takes the current device, which is the first one for every rank unless it is told
        torch.cuda.set_device(world.device)
    if world.size == 1:
        for name, value in {
            "MASTER_ADDR": "127.0.0.1",
            # Any free port: nobody else has to find a group of one
            "MASTER_PORT": "0",
            "LOCAL_RANK": "0",
        }.items():
            os.environ.setdefault(name, value)
    backend = "cpu:gloo,cuda:nccl" if world.device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend, rank=world.rank, world_size=world.size, timeout=timedelta(seconds=timeout)
    )
    failed = True
    try:
        yield
        failed = False
    finally:
        # After a failure the peers may be gone: tearing the group down could hang, and the process
        # ends anyway.
        if not failed and dist.is_initialized():
            barrier()
            dist.destroy_process_group()


def sum_over_ranks(values: Sequence[float]) -> list[float]:
    """Return the sums of ``values`` over all ranks (float64, over gloo). Same length on every
    rank."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [float(value) for value in values]
    tensor = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(tensor)
    return list(tensor.tolist())


def gather_json(value: Any) -> list[Any]:
    """Return the values of all ranks (anything JSON can say), in their order, on every rank."""
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    return [broadcast_json(value, rank) for rank in range(ranks)]


def gather_when_done(value: Any) -> list[Any]:
    """Return the values of all ranks as `gather_json` does, however long some of them take."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        # A group of its own, because the default one's timeout is that of a step
        patient = dist.new_group(backend="gloo", timeout=_DAY)
        dist.barrier(patient)
        dist.destroy_process_group(patient)
    return gather_json(value)


def broadcast_json(value: Any, source: int = 0) -> Any:
    """Return the value of rank ``source`` (anything JSON can say) on every rank."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    # JSON, not torch's broadcast_object_list: that unpickles what it receives
    text = json.dumps(value).encode() if dist.get_rank() == source else b""
    # Length first: receivers must have room laid out
    length = torch.tensor([len(text)])
    dist.broadcast(length, src=source)
    data = (
        torch.frombuffer(bytearray(text), dtype=torch.uint8)
        if text
        else torch.empty(int(length), dtype=torch.uint8)
    )
    dist.broadcast(data, src=source)
    return json.loads(bytes(data.tolist()))


def check_same(value: str, *, what: str, remedy: str) -> None:
    """Check that all ranks hold the same value.

    Raises:
        RecipeError: on every rank, if one differs from rank 0's; it says which ranks do.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    mine = [0.0] * dist.get_world_size()
    mine[dist.get_rank()] = float(value != broadcast_json(value))
    other = [rank for rank, differs in enumerate(sum_over_ranks(mine)) if differs]
    if other:
        raise RecipeError(
            f"{what} of rank {', '.join(map(str, other))} is not that of rank 0",
            code="VT-RECIPE-077",
            remedy=remedy,
        )


def barrier() -> None:
    """Wait for all ranks, over gloo."""
    sum_over_ranks([0.0])


@contextmanager
def peer_errors() -> Iterator[None]:
    """Turn the errors by which a lost peer shows itself into PeerLostError; let every other error
    pass."""
    try:
        yield
    except (dist.DistBackendError, dist.DistNetworkError, dist.DistStoreError) as error:
        raise _lost(error) from error
    except RuntimeError as error:
        if any(text in str(error).lower() for text in _LOST):
            raise _lost(error) from error
        raise


def _lost(error: BaseException) -> PeerLostError:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return PeerLostError(
        f"the connection to another rank was lost ({first[:200]})",
        code="VT-PEER-008",
        remedy="look at the logs of the other ranks for the first error, then run the same command "
        "again; training goes on from the last checkpoint",
    )
