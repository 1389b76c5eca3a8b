"""What a caching allocator reserves beyond what is asked of it.

It plays the requests of a step to blocks as torch documents those of its CUDA allocator: small
requests from segments of 2 MiB, larger ones from segments of 20 MiB or of their own, best fit
first, blocks cut where the rest is worth it and joined when neighbours are free. Segments stay.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass

_MIB = 1 << 20
_SMALL, _SMALL_SEGMENT = _MIB, 2 * _MIB
_LARGE, _LARGE_SEGMENT, _LARGE_STEP = 10 * _MIB, 20 * _MIB, 2 * _MIB
_ROUND = 512


@dataclass(eq=False)
class _Block:
    size: int
    small: bool
    address: int
    before: _Block | None = None
    after: _Block | None = None
    free: bool = False


class CachingAllocator:
    """Blocks of one device."""

    def __init__(self) -> None:
        self.reserved = 0
        """Bytes of all segments."""
        self._next = 0
        self._free: dict[bool, list[tuple[int, int, _Block]]] = {True: [], False: []}
        self._taken: dict[int, _Block] = {}

    def play(self, requests: Iterable[tuple[int, int]]) -> int:
        """Follow requests and return the bytes that are reserved in the end, which is the most.

        Args:
            requests: number of a piece of memory and its bytes, 0 where it is let go.
        """
        for key, size in requests:
            if size:
                self._taken[key] = self._take(-(-size // _ROUND) * _ROUND)
            elif (block := self._taken.pop(key, None)) is not None:
                self._release(block)
        return self.reserved

    def _take(self, size: int) -> _Block:
        small = size <= _SMALL
        spare = self._free[small]
        place = bisect_left(spare, (size, -1))
        if place < len(spare):
            block = spare.pop(place)[2]
        else:
            segment = (
                _SMALL_SEGMENT
                if small
                else _LARGE_SEGMENT
                if size < _LARGE
                else -(-size // _LARGE_STEP) * _LARGE_STEP
            )
            block = _Block(segment, small, self._next)
            self._next += segment
            self.reserved += segment
        block.free = False
        rest = block.size - size
        if rest >= _ROUND if small else rest > _SMALL:
            behind = _Block(rest, small, block.address + size, block, block.after)
            if block.after is not None:
                block.after.before = behind
            block.after, block.size = behind, size
            self._keep(behind)
        return block

    def _release(self, block: _Block) -> None:
        before, after = block.before, block.after
        if after is not None and after.free:
            self._forget(after)
            block.size += after.size
            block.after = after.after
            if block.after is not None:
                block.after.before = block
        if before is not None and before.free:
            self._forget(before)
            before.size += block.size
            before.after = block.after
            if before.after is not None:
                before.after.before = before
            block = before
        self._keep(block)

    def _keep(self, block: _Block) -> None:
        block.free = True
        insort(self._free[block.small], (block.size, block.address, block))

    def _forget(self, block: _Block) -> None:
        spare = self._free[block.small]
        spare.pop(bisect_left(spare, (block.size, block.address)))
