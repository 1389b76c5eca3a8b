"""Connections to public addresses only, looked at after each name was resolved."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from typing import Any

import httpcore2 as httpcore

from vita_train.data.crawl.settings import Lost, Reason

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Say whether an IP address is one of the public network, and so is the IPv4 address that it
    may carry inside (mapped, 6to4, NAT64)."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return found.is_global and not found.is_multicast


class Guarded(httpcore.AsyncNetworkBackend):
    """Connects to the addresses that a name resolves to, if all of them are public.

    The address that was looked at is the one that is connected to: a name that changes its answer
    between the two gains nothing. Certificates are still checked against the name.
    """

    def __init__(self, *, private: bool) -> None:
        self._private = private
        self._inner = httpcore.AnyIOBackend()
        self._known: dict[tuple[str, int], asyncio.Task[list[str]]] = {}

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address that answers.

        Raises:
            Lost: there is no such host, or an address of it is not public.
            httpcore.ConnectError, httpcore.ConnectTimeout: no address answers.
        """
        failed: Exception = httpcore.ConnectError("no address")
        for address in await self._addresses(host, port):
            try:
                return await self._inner.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed

    async def _addresses(self, host: str, port: int) -> list[str]:
        task = self._known.get((host, port))
        if task is None:
            task = self._known[host, port] = asyncio.create_task(_resolve(host, port))
        addresses = await asyncio.shield(task)  # others wait for it too
        if not addresses:
            raise Lost(Reason.UNKNOWN_HOST)
        if not self._private and not all(map(is_public, addresses)):
            raise Lost(Reason.PRIVATE)
        return addresses


async def _resolve(host: str, port: int) -> list[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
