"""Optimizer steps one after another on CUDA's simulated allocator, each micro-batch with its own blocks."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from autofit.predict.caching_allocator import CachingAllocator
from autofit.predict.timeline import Integers, StepBuilder, StepParts


class MicroStep(NamedTuple):
    """One micro-batch on its way through the model: ``sizes`` (bytes) of the blocks of ``builder``'s trace."""

    builder: StepBuilder
    sizes: Integers


class Course:
    """A training on an allocator, from the built model on.

    ``first`` is any micro-batch: what is there before the first step, and the update, are as its trace has them. Half
    of ``workspaces`` (bytes) is the main thread's, half autograd's: each is taken where the thread's first matrix
    product has its output. A paged optimizer's state is not the allocator's. Every method raises
    SimulatedOutOfMemoryError.
    """

    def __init__(self, first: MicroStep, allocator: CachingAllocator, *, is_paged: bool, workspaces: int = 0) -> None:
        self._main, self._sizes = first.builder, first.sizes.tolist()
        self._allocator = allocator
        self._is_paged = is_paged
        self._workspace = workspaces // 2
        self._steps = 0
        parts = self._main.parts
        # Numbers of what is not in the trace: workspaces, what accumulates, two steps' inputs.
        self._free_numbers = itertools.count(len(self._sizes))
        self._inputs = tuple([next(self._free_numbers) for _ in parts.inputs] for _ in range(2))
        self._others = (next(self._free_numbers), next(self._free_numbers))
        self._workspace_numbers = (next(self._free_numbers), next(self._free_numbers))
        self._roles = {self._main: self._role(self._main, {})}
        own = {event - 1 for event in parts.between if event > 0} & {-event - 1 for event in parts.between if event < 0}
        self._repeated = [event for event in parts.between if abs(event) - 1 in own]
        self._play(parts, parts.before, self._sizes, {})

    def step(self, micro_batches: Sequence[MicroStep], *, accumulation: int | None = None) -> None:
        """One optimizer step of these micro-batches.

        Of an ``accumulation`` longer than they are, the inputs of the others are held, too, as large as the last one's.
        """
        parity = self._steps % 2
        roles = [self._role_of(builder) for builder, _ in micro_batches]
        sizes = [own.tolist() for _, own in micro_batches]
        held = [sum(own[block] for block in role.parts.inputs) for role, own in zip(roles, sizes, strict=True)]
        missing = (accumulation or len(sizes)) - len(sizes)
        self._play(roles[0].parts, roles[0].parts.fetched, sizes[0], roles[0].numbers[parity])
        self._allocator.take(self._others[parity], sum(held[1:]) + missing * held[-1])
        if self._steps:
            # The last step's list of micro-batches is there until this one's is.
            for number in (*self._inputs[1 - parity], self._others[1 - parity]):
                self._allocator.free(number)
        for place, (role, own) in enumerate(zip(roles, sizes, strict=True)):
            parts, numbers = role.parts, role.numbers[parity]
            for block in self._main.parts.left_over:
                # Of the micro-step before, if there was one.
                self._allocator.free(block)
            if place and parts.last:
                self._play(parts, self._further(place, len(sizes)), own, numbers)
            elif place:
                self._play(parts, (*parts.forward, *parts.accumulating), own, {**numbers, **role.incoming})
            elif self._steps:
                self._play(parts, (*parts.forward, *parts.backward), own, numbers)
            else:
                self._play_first(parts.forward, own, role, thread=0)
                self._play_first(parts.backward, own, role, thread=1)
        self._update(parity)
        self._steps += 1

    def _role_of(self, builder: StepBuilder) -> _Role:
        if builder not in self._roles:
            numbers = numbers_in(self._main, builder)
            assert numbers is not None
            rest = (block for block in range(len(builder.trace.sizes)) if block not in numbers)
            self._roles[builder] = self._role(builder, numbers | {block: next(self._free_numbers) for block in rest})
        return self._roles[builder]

    def _role(self, builder: StepBuilder, numbers: dict[int, int]) -> _Role:
        parts = builder.parts
        return _Role(
            parts=parts,
            numbers=tuple(numbers | dict(zip(parts.inputs, own, strict=True)) for own in self._inputs),
            incoming={block: next(self._free_numbers) for block in parts.incoming},
        )

    def _further(self, place: int, number: int) -> Sequence[int]:
        """Events of a further micro-step of several processes: the last of ``number``, or one before it.

        What outlives the first one in between is there when the next begins: each of these leaves what it found.
        """
        parts = self._main.parts
        if place == number - 1:
            return parts.last
        return parts.between if place == 1 else self._repeated

    def evaluation(self) -> None:
        """One evaluation batch of the first micro-batch's samples, after the last step."""
        self._play(self._main.parts, self._main.parts.evaluation, self._sizes, {})

    def _update(self, parity: int) -> None:
        parts = self._main.parts
        skipped = parts.state if self._steps or self._is_paged else frozenset()
        events = (event for event in parts.update if event - 1 not in skipped)
        self._play(parts, events, self._sizes, self._roles[self._main].numbers[parity])

    def _play_first(self, events: Sequence[int], sizes: Sequence[int], role: _Role, *, thread: int) -> None:
        makes_product = (event > 0 and event - 1 in role.parts.products for event in events)
        until = next((place + 1 for place, is_one in enumerate(makes_product) if is_one), 0)
        self._play(role.parts, events[:until], sizes, role.numbers[0])
        self._allocator.take(self._workspace_numbers[thread], self._workspace)
        self._play(role.parts, events[until:], sizes, role.numbers[0])

    def _play(self, parts: StepParts, events: Iterable[int], sizes: Sequence[int], numbers: dict[int, int]) -> None:
        take, free, stream_of = self._allocator.take, self._allocator.free, parts.stream_of
        for event in events:
            block = abs(event) - 1
            if event > 0:
                take(numbers.get(block, block), sizes[block], stream_of.get(block, 0))
            else:
                free(numbers.get(block, block))


class _Role(NamedTuple):
    """A trace in a course: the ``numbers`` by which the allocator knows blocks, in an even and in an odd step, where
    they are not the trace's own, and those of ``incoming`` gradients."""

    parts: StepParts
    numbers: tuple[dict[int, int], ...]
    incoming: dict[int, int]


def numbers_in(main: StepBuilder, other: StepBuilder) -> dict[int, int] | None:
    """Numbers that ``main``'s trace has for the blocks of ``other``'s that outlive a micro-step.

    Both are of one model. None where they cannot be told apart in pairs.
    """
    mains, others = main.parts, other.parts
    weights = main.trace.gradient_of.keys()
    if mains.before != others.before or weights != other.trace.gradient_of.keys():
        return None
    numbers = {event - 1: event - 1 for event in mains.before if event > 0}
    for own, mine in (
        ([event - 1 for event in others.fetched if event > 0], [event - 1 for event in mains.fetched if event > 0]),
        (others.inputs, mains.inputs),
        (others.left_over, mains.left_over),
    ):
        if len(own) != len(mine):
            return None
        numbers |= zip(own, mine, strict=True)
    return numbers | {other.trace.gradient_of[weight]: main.trace.gradient_of[weight] for weight in weights}
