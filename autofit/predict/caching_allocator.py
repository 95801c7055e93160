"""The CUDA caching allocator, simulated over the blocks of a timeline: how much it reserves for what is alive.

After c10/cuda/CUDACachingAllocator.cpp of torch 2.13. Requests are rounded to 512 bytes. Blocks up to 1 MiB come
from segments of 2 MiB; larger ones from segments of 20 MiB, or of their own size rounded to 2 MiB from 10 MiB on.
The smallest free block that is large enough is taken and split, unless what would be left over is too small to
be of use. A freed block joins its free neighbours in its segment. Where a new segment would pass the limit, every
segment that is wholly free is given back first, and the request is tried once more.

With expandable segments each of the two kinds of blocks has one segment a stream, which grows in pages of 2 or 20 MiB.

A block goes back to the stream of work that it was taken for, and is not given to another one: each stream has segments
of its own.

Not covered: blocks that several streams use (``Tensor.record_stream``), garbage collection by threshold, and the
round-up options of the environment variable.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass

from autofit.units import MIB

SMALLEST_BLOCK = 512
LARGEST_SMALL = MIB
SMALL_SEGMENT = 2 * MIB
LARGE_SEGMENT = 20 * MIB
FROM_OWN_SEGMENT = 10 * MIB
SEGMENT_STEP = 2 * MIB


class SimulatedOutOfMemoryError(Exception):
    """The limit would be passed even with every free segment given back."""


class _Block:
    """A stretch of a segment; ``before`` and ``after`` are its neighbours there."""

    __slots__ = ("address", "after", "before", "is_free", "pool", "size")

    def __init__(self, address: int, size: int, pool: _Pool) -> None:
        self.address = address
        self.size = size
        self.pool = pool
        self.is_free = True
        self.before: _Block | None = None
        self.after: _Block | None = None


class _Pool:
    """Free blocks of one kind and stream, by size and then address."""

    def __init__(self, is_small: bool) -> None:
        self.is_small = is_small
        self.end: _Block | None = None  # the last block of an expandable segment
        self._keys: list[tuple[int, int]] = []
        self._blocks: dict[tuple[int, int], _Block] = {}

    def add(self, block: _Block) -> None:
        key = (block.size, block.address)
        bisect.insort(self._keys, key)
        self._blocks[key] = block

    def remove(self, block: _Block) -> None:
        key = (block.size, block.address)
        del self._keys[bisect.bisect_left(self._keys, key)]
        del self._blocks[key]

    def best_fit(self, size: int) -> _Block | None:
        place = bisect.bisect_left(self._keys, (size, -1))
        fitting = (self._blocks[key] for key in self._keys[place : place + 2])
        first = next(fitting, None)
        # The end of an expandable segment counts as large as it can grow: any other that fits is preferred.
        return next(fitting, first) if first is not None and first is self.end else first

    def blocks(self) -> list[_Block]:
        return list(self._blocks.values())


@dataclass
class AllocatorPeaks:
    """Bytes. ``allocated`` counts whole blocks, as torch's own peak of allocated memory does; ``retries`` counts how
    often free segments were given back to make room."""

    allocated: int = 0
    reserved: int = 0
    retries: int = 0


class CachingAllocator:
    """One device's allocator. ``limit`` is what it may reserve, None for no limit."""

    def __init__(self, *, limit: int | None = None, expandable: bool = False) -> None:
        self._limit = limit
        self._expandable = expandable
        self._pools: dict[tuple[bool, int], _Pool] = {}
        self._taken: dict[int, _Block] = {}
        self._next_address = 0
        self.allocated = 0
        self.reserved = 0
        self.peaks = AllocatorPeaks()

    def take(self, number: int, size: int, stream: int = 0) -> None:
        """Allocate ``size`` bytes for block ``number`` on a stream. Raises SimulatedOutOfMemoryError."""
        if size == 0:
            return
        size = -(-size // SMALLEST_BLOCK) * SMALLEST_BLOCK
        is_small = size <= LARGEST_SMALL
        pool = self._pools.get((is_small, stream)) or self._pools.setdefault((is_small, stream), _Pool(is_small))
        block = pool.best_fit(size) or self._grow(pool, size)
        pool.remove(block)
        left = block.size - size
        if left >= SMALLEST_BLOCK if pool.is_small or self._expandable else left > LARGEST_SMALL:
            self._split(block, size)
        block.is_free = False
        self._taken[number] = block
        self.allocated += block.size
        self.peaks.allocated = max(self.peaks.allocated, self.allocated)

    def free(self, number: int) -> None:
        """Give block ``number`` back; it joins its free neighbours."""
        block = self._taken.pop(number, None)
        if block is None:  # it had no bytes
            return
        self.allocated -= block.size
        block.is_free = True
        before, after = block.before, block.after
        if before is not None and before.is_free:
            block.pool.remove(before)
            block = self._join(before, block)
        if after is not None and after.is_free:
            block.pool.remove(after)
            block = self._join(block, after)
        block.pool.add(block)

    def _grow(self, pool: _Pool, size: int) -> _Block:
        if self._expandable:
            return self._extend(pool, size)
        segment = SMALL_SEGMENT
        if not pool.is_small:
            segment = LARGE_SEGMENT if size < FROM_OWN_SEGMENT else -(-size // SEGMENT_STEP) * SEGMENT_STEP
        self._reserve(segment)
        block = _Block(self._next_address, segment, pool)
        # Segments do not touch each other.
        self._next_address += segment + SEGMENT_STEP
        pool.add(block)
        return block

    def _extend(self, pool: _Pool, size: int) -> _Block:
        """Map pages at the end of the pool's segment, behind what is free there."""
        missing = self._missing(pool, size)
        if not self._has_room_for(missing):
            # The pages that are given back may be the very ones behind which more were to be mapped.
            self._release_free_segments()
            missing = self._missing(pool, size)
        self._reserve(missing)
        last = pool.end
        if last is not None and last.is_free:
            pool.remove(last)
            last.size += missing
            pool.add(last)
            return last
        # Addresses order the blocks of one pool, which have one segment.
        block = _Block(0 if last is None else last.address + last.size, missing, pool)
        if last is not None:
            last.after, block.before = block, last
        pool.end = block
        pool.add(block)
        return block

    def _missing(self, pool: _Pool, size: int) -> int:
        """Bytes of the pages to map so that ``size`` are free at the end of the pool's segment."""
        page = SMALL_SEGMENT if pool.is_small else LARGE_SEGMENT
        last = pool.end
        there = last.size if last is not None and last.is_free else 0
        return -(-(size - there) // page) * page

    def _has_room_for(self, size: int) -> bool:
        return self._limit is None or self.reserved + size <= self._limit

    def _reserve(self, size: int) -> None:
        if not self._has_room_for(size):
            self._release_free_segments()
            if not self._has_room_for(size):
                raise SimulatedOutOfMemoryError(f"{self.reserved} bytes are reserved and {size} more are asked for")
        self.reserved += size
        self.peaks.reserved = max(self.peaks.reserved, self.reserved)

    def _release_free_segments(self) -> None:
        self.peaks.retries += 1
        for pool in self._pools.values():
            for block in pool.blocks():
                if self._expandable:
                    self._unmap(block)
                elif block.before is None and block.after is None:
                    pool.remove(block)
                    self.reserved -= block.size

    def _unmap(self, block: _Block) -> None:
        """Give the whole pages of a free block at the end back; holes in between stay mapped here."""
        pool = block.pool
        page = SMALL_SEGMENT if pool.is_small else LARGE_SEGMENT
        given_back = block.size // page * page
        if block is not pool.end or not given_back:
            return
        pool.remove(block)
        self.reserved -= given_back
        block.size -= given_back
        if block.size:
            pool.add(block)
        else:
            pool.end = block.before
            if block.before is not None:
                block.before.after = None

    def _split(self, block: _Block, size: int) -> None:
        rest = _Block(block.address + size, block.size - size, block.pool)
        rest.before, rest.after = block, block.after
        if block.after is not None:
            block.after.before = rest
        block.after = rest
        block.size = size
        if block.pool.end is block:
            block.pool.end = rest
        block.pool.add(rest)

    def _join(self, first: _Block, second: _Block) -> _Block:
        first.size += second.size
        first.after = second.after
        if second.after is not None:
            second.after.before = first
        if first.pool.end is second:
            first.pool.end = first
        return first
