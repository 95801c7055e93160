"""Optimizer steps one after another on CUDA's simulated allocator, each micro-batch with its own sizes of blocks."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from autofit.predict.caching_allocator import CachingAllocator
from autofit.predict.timeline import Integers, StepBuilder


class Course:
    """A training on an allocator, from the built model on.

    Half of ``workspaces`` (bytes) is the main thread's, half autograd's: each is taken where the thread's first matrix
    product has its output. A paged optimizer's state is not the allocator's. Every method raises
    SimulatedOutOfMemoryError.
    """

    def __init__(
        self, builder: StepBuilder, allocator: CachingAllocator, sizes: Integers, *, is_paged: bool, workspaces: int = 0
    ) -> None:
        """``sizes`` are the blocks' of any micro-batch: what is there before the first step has one size."""
        self._parts = builder.parts
        self._allocator = allocator
        self._is_paged = is_paged
        self._workspace = workspaces // 2
        self._steps = 0
        # Numbers of what is not in the trace: incoming gradients, two steps' inputs, workspaces.
        numbers = itertools.count(len(sizes))
        self._incoming = {block: next(numbers) for block in self._parts.incoming}
        self._inputs = tuple({block: next(numbers) for block in self._parts.inputs} for _ in range(2))
        self._others = (next(numbers), next(numbers))
        self._workspace_numbers = (next(numbers), next(numbers))
        between = self._parts.between
        own = {event - 1 for event in between if event > 0} & {-event - 1 for event in between if event < 0}
        self._repeated = [event for event in between if abs(event) - 1 in own]
        self._play(self._parts.before, sizes.tolist(), {})

    def step(self, micro_batches: Sequence[Integers], *, accumulation: int | None = None) -> None:
        """One optimizer step of the micro-batches whose blocks have these sizes.

        Of an ``accumulation`` longer than they are, the inputs of the others are held, too, as large as the last one's.
        """
        parts, parity = self._parts, self._steps % 2
        numbers = self._inputs[parity]
        sizes = [each.tolist() for each in micro_batches]
        held = [sum(own[block] for block in parts.inputs) for own in sizes]
        missing = (accumulation or len(sizes)) - len(sizes)
        self._play(parts.fetched, sizes[0], numbers)
        self._allocator.take(self._others[parity], sum(held[1:]) + missing * held[-1])
        if self._steps:
            # The last step's list of micro-batches is there until this one's is.
            for number in (*self._inputs[1 - parity].values(), self._others[1 - parity]):
                self._allocator.free(number)
        for place, own in enumerate(sizes):
            for block in parts.left_over:
                # Of the micro-step before, if there was one.
                self._allocator.free(block)
            if place and parts.last:
                self._play(self._further(place, len(sizes)), own, numbers)
            elif place:
                self._play((*parts.forward, *parts.accumulating), own, {**numbers, **self._incoming})
            elif self._steps:
                self._play((*parts.forward, *parts.backward), own, numbers)
            else:
                self._play_first(parts.forward, own, numbers, thread=0)
                self._play_first(parts.backward, own, numbers, thread=1)
        self._update(sizes[-1], numbers)
        self._steps += 1

    def _further(self, place: int, number: int) -> Sequence[int]:
        """Events of a further micro-step of several processes: the last of ``number``, or one before it.

        What outlives the first one in between is there when the next begins: each of these leaves what it found.
        """
        if place == number - 1:
            return self._parts.last
        if place == 1:
            return self._parts.between
        return self._repeated

    def evaluation(self, sizes: Integers) -> None:
        """One evaluation batch after the last step."""
        self._play(self._parts.evaluation, sizes.tolist(), {})

    def _update(self, sizes: Sequence[int], numbers: dict[int, int]) -> None:
        state = self._parts.state
        skipped = state if self._steps or self._is_paged else frozenset()
        self._play((event for event in self._parts.update if event - 1 not in skipped), sizes, numbers)

    def _play_first(self, events: Sequence[int], sizes: Sequence[int], numbers: dict[int, int], *, thread: int) -> None:
        makes_product = (event > 0 and event - 1 in self._parts.products for event in events)
        until = next((place + 1 for place, is_one in enumerate(makes_product) if is_one), 0)
        self._play(events[:until], sizes, numbers)
        self._allocator.take(self._workspace_numbers[thread], self._workspace)
        self._play(events[until:], sizes, numbers)

    def _play(self, events: Iterable[int], sizes: Sequence[int], numbers: dict[int, int]) -> None:
        take, free = self._allocator.take, self._allocator.free
        for event in events:
            block = abs(event) - 1
            if event > 0:
                take(numbers.get(block, block), sizes[block])
            else:
                free(numbers.get(block, block))
