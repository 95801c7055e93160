"""The simulated caching allocator against figures worked out from torch's rules by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autofit.predict.caching_allocator import CachingAllocator, SimulatedOutOfMemoryError
from autofit.units import MIB


def test_requests_are_rounded_to_512_bytes_and_small_ones_share_a_segment_of_2_mib() -> None:
    allocator = CachingAllocator()
    allocator.take(0, 1)
    allocator.take(1, 513)
    assert allocator.allocated == 512 + 1024
    assert allocator.reserved == 2 * MIB


def test_blocks_from_1_to_10_mib_share_segments_of_20_mib_and_larger_ones_have_their_own() -> None:
    allocator = CachingAllocator()
    allocator.take(0, 3 * MIB)
    allocator.take(1, 3 * MIB)
    assert allocator.reserved == 20 * MIB
    allocator.take(2, 11 * MIB)  # 14 MiB are free, and that is the best fit
    assert allocator.reserved == 20 * MIB
    allocator.take(3, 11 * MIB + 1)
    assert allocator.reserved == 20 * MIB + 12 * MIB  # rounded to 2 MiB


def test_a_rest_of_at_most_1_mib_is_not_split_off_and_counts_as_allocated() -> None:
    allocator = CachingAllocator()
    allocator.take(0, 30 * MIB)
    allocator.free(0)
    allocator.take(1, 29 * MIB)
    assert allocator.allocated == 30 * MIB
    allocator.free(1)
    allocator.take(2, 28 * MIB)
    assert allocator.allocated == 28 * MIB


def test_freed_neighbours_join_and_are_found_again() -> None:
    allocator = CachingAllocator()
    for number in range(4):
        allocator.take(number, 4 * MIB)
    for number in (0, 2, 1):
        allocator.free(number)
    allocator.take(9, 12 * MIB)
    assert allocator.reserved == 20 * MIB


def test_a_freed_block_goes_to_its_own_stream_alone() -> None:
    for expandable in (False, True):
        allocator = CachingAllocator(expandable=expandable)
        allocator.take(0, 30 * MIB, 1)
        once = allocator.reserved
        allocator.free(0)
        allocator.take(1, 30 * MIB)
        assert allocator.reserved == 2 * once
        allocator.take(2, 30 * MIB, 1)
        assert allocator.reserved == 2 * once


def test_free_segments_of_every_stream_are_given_back_where_the_limit_is_met() -> None:
    allocator = CachingAllocator(limit=100 * MIB)
    allocator.take(0, 60 * MIB, 3)
    allocator.free(0)
    allocator.take(1, 80 * MIB)
    assert allocator.reserved == 80 * MIB


def test_under_a_limit_free_segments_are_given_back_first_and_that_is_counted() -> None:
    allocator = CachingAllocator(limit=100 * MIB)
    allocator.take(0, 60 * MIB)
    allocator.free(0)
    allocator.take(1, 80 * MIB)
    assert allocator.peaks.retries == 1
    assert allocator.reserved == 80 * MIB
    with pytest.raises(SimulatedOutOfMemoryError):
        allocator.take(2, 30 * MIB)


def test_a_segment_that_is_partly_used_cannot_be_given_back() -> None:
    allocator = CachingAllocator(limit=50 * MIB)
    allocator.take(0, 12 * MIB)
    allocator.take(1, 28 * MIB)
    allocator.free(1)
    allocator.take(2, 2 * MIB)  # out of the 28
    with pytest.raises(SimulatedOutOfMemoryError):
        allocator.take(3, 30 * MIB)


def test_expandable_segments_grow_behind_what_is_free_at_their_end() -> None:
    fixed, expandable = CachingAllocator(), CachingAllocator(expandable=True)
    for allocator in (fixed, expandable):
        allocator.take(0, 40 * MIB)
        allocator.free(0)
        allocator.take(1, 60 * MIB)
    assert fixed.reserved == 100 * MIB
    assert expandable.reserved == 60 * MIB


def test_a_free_block_is_preferred_to_the_end_of_an_expandable_segment_which_can_grow() -> None:
    allocator = CachingAllocator(expandable=True)
    for number, size in enumerate((30, 10, 20, 10)):
        allocator.take(number, size * MIB)
    allocator.free(0)
    assert allocator.reserved == 80 * MIB  # of which 30 MiB are free in the beginning, and 10 MiB at the end
    allocator.take(4, 8 * MIB)
    allocator.take(5, 25 * MIB)
    assert allocator.reserved == 100 * MIB


def test_expandable_segments_that_had_to_be_given_back_are_mapped_again_as_far_as_the_limit_goes() -> None:
    allocator = CachingAllocator(expandable=True, limit=100 * MIB)
    allocator.take(0, 60 * MIB)
    allocator.take(1, 30 * MIB)
    allocator.free(1)
    # 20 MiB pages: 40 are free at the end after 60, and 60 more than 40 do not fit beside them.
    with pytest.raises(SimulatedOutOfMemoryError):
        allocator.take(2, 60 * MIB)
    allocator.take(3, 40 * MIB)
    assert allocator.reserved == 100 * MIB


@given(st.lists(st.tuples(st.integers(1, 2**26), st.booleans()), max_size=60), st.booleans())
def test_what_is_reserved_covers_what_is_allocated_and_everything_comes_back(
    requests: list[tuple[int, bool]], expandable: bool
) -> None:
    allocator = CachingAllocator(expandable=expandable)
    alive: dict[int, int] = {}
    for number, (size, frees_one) in enumerate(requests):
        allocator.take(number, size)
        alive[number] = size
        if frees_one:
            oldest = next(iter(alive))
            allocator.free(oldest)
            del alive[oldest]
        assert allocator.reserved >= allocator.allocated >= sum(alive.values())
        # At most 511 bytes of rounding and 1 MiB that is not split off, for each block.
        assert allocator.allocated <= sum(alive.values()) + len(alive) * (MIB + 512)
    for number in alive:
        allocator.free(number)
    assert allocator.allocated == 0
