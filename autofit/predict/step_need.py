"""One configuration's need: the blocks of memory that its step takes, and what the allocator makes of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from autofit.predict.caching_allocator import AllocatorPeaks, CachingAllocator, SimulatedOutOfMemoryError
from autofit.predict.course import Course, MicroStep
from autofit.predict.step_time import Work, WorkShares
from autofit.predict.timeline import Timeline
from autofit.predict.trace import Category


@dataclass(frozen=True, kw_only=True)
class Reserved:
    """Result of the simulated allocator; ``retries_when_warm`` counts how often a step of a running training has to
    give cached segments back before it goes on. ``allocated_bytes`` is torch's own peak of allocated memory: what is
    alive, and what its blocks have beyond that."""

    peak_bytes: int
    allocated_bytes: int
    is_out_of_memory: bool
    retries_when_warm: int

    @classmethod
    def of(cls, peaks: AllocatorPeaks, *, retries_when_warm: int) -> Reserved:
        """Of an allocator that never ran out."""
        return cls(
            peak_bytes=peaks.reserved,
            allocated_bytes=peaks.allocated,
            is_out_of_memory=False,
            retries_when_warm=retries_when_warm,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Need:
    """One configuration's. ``bytes_by_category`` is what is alive at the peak on the device, and adds up to
    ``live_bytes``; ``paged_bytes`` is optimizer state that may leave the device and is part of neither. ``worst`` is
    the micro-batch of that peak, ``course`` gives the micro-batches of one optimizer step after another.
    ``exchanged_bytes`` are what several processes together have of what they gather and reduce in a step."""

    bytes_by_category: dict[Category, int]
    paged_bytes: int
    work: Work
    shares: WorkShares
    worst: MicroStep
    accumulation: int
    course: Callable[[], Iterator[list[MicroStep]]]
    exchanged_bytes: int = 0

    @property
    def live_bytes(self) -> int:
        """The most that is alive at once."""
        return sum(self.bytes_by_category.values())

    def phase_peaks(self) -> dict[str, int]:
        """The most that is alive in each phase of a steady step, paged state included."""
        peaks = self._steady_step.phase_peaks()
        return {phase.name.lower(): size for phase, size in peaks.items()}

    def largest_blocks(self, most: int) -> tuple[tuple[int, str, str, int], ...]:
        """Blocks alive at the peak, equal ones together: bytes, operator, category, how many; the largest first."""
        blocks = self._steady_step.alive_at_peak()
        makers = self.worst.builder.trace.makers
        groups = Counter(
            (size, makers[block] if block < len(makers) else "collator", Category(category).name.lower())
            for block, size, category in blocks
        )
        largest = sorted(groups.items(), key=lambda item: -item[0][0] * item[1])[:most]
        return tuple((size, maker, category, number) for (size, maker, category), number in largest)

    @property
    def _steady_step(self) -> Timeline:
        return self.worst.builder.steady_step(self.accumulation, self.worst.sizes)

    def on_allocator(self, *, limit: int, expandable: bool, workspaces: int = 0) -> Reserved:
        """Result of CUDA's allocator with it under a limit, libraries' workspaces (bytes) included.

        The steps are those in the beginning of a training, in its order, the last one with the worst micro-batch. Where
        something had to give way they are gone through again: it may have been for the shapes' first time only.
        """
        allocator = CachingAllocator(limit=limit, expandable=expandable)
        retries: list[int] = []
        try:
            course = Course(self.worst, allocator, is_paged=self.paged_bytes > 0, workspaces=workspaces)
            while len(retries) < 2 and (not retries or retries[0]):
                for micro_batches in (*self.course(), [self.worst] * min(2, self.accumulation)):
                    course.step(micro_batches, accumulation=self.accumulation)
                retries.append(allocator.peaks.retries)
            trained = replace(allocator.peaks)
            try:
                course.evaluation()
            except SimulatedOutOfMemoryError:
                # One sample is evaluated at a time where the micro-batch's number is too many.
                allocator.peaks = trained
        except SimulatedOutOfMemoryError:
            return Reserved(
                peak_bytes=limit, allocated_bytes=allocator.peaks.allocated, is_out_of_memory=True, retries_when_warm=0
            )
        return Reserved.of(allocator.peaks, retries_when_warm=retries[-1] - retries[0])
