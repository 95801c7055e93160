"""A whole optimizer step made of a traced one: which blocks are alive when, and what the peak is made of.

What is recorded is a micro-step that finds no gradients, and an update that makes its state. Everything else
follows from it:

* A later micro-step of an accumulation finds gradients: an incoming gradient is added to the one that is there
  and freed, where the first one becomes the gradient.
* In every step but the first, the optimizer's state is there from the beginning.
* All micro-batches of a step are fetched before the first is run, while the list of the last step's
  micro-batches still exists (transformers' ``Trainer._run_epoch``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from autofit.trace import Category, Phase, StepTrace

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Timeline:
    """Blocks taken (``event > 0``: ``event - 1`` is the block) and freed (``event < 0``: ``-event - 1``), in order.

    ``phases`` holds the phase of each event; ``sizes`` (bytes) and ``categories`` one entry a block.
    """

    events: Integers
    phases: Integers
    sizes: Integers
    categories: Integers

    @cached_property
    def live(self) -> Integers:
        """Bytes alive after each event."""
        blocks = np.abs(self.events) - 1
        return np.cumsum(np.where(self.events > 0, self.sizes[blocks], -self.sizes[blocks]))

    @property
    def peak_bytes(self) -> int:
        """The most that is alive at once."""
        return int(self.live.max())

    def phase_peaks(self) -> dict[Phase, int]:
        """The most that is alive at once in each phase of the step."""
        return {phase: int(self.live[self.phases == phase].max()) for phase in Phase if (self.phases == phase).any()}

    def peak_by_category(self) -> dict[Category, int]:
        """What is alive at the peak, by category; the values add up to ``peak_bytes``."""
        until = self.events[: int(self.live.argmax()) + 1]
        alive = np.zeros(len(self.sizes), dtype=bool)
        # The last event of a block decides; numpy keeps the last of repeated assignments.
        alive[np.abs(until) - 1] = until > 0
        sums = np.bincount(self.categories[alive], weights=self.sizes[alive].astype(float), minlength=len(Category))
        return {category: int(sums[category]) for category in Category}


class StepBuilder:
    """Makes timelines of one trace; ``sizes`` may be those of another micro-batch of the same family."""

    def __init__(self, trace: StepTrace, *, inputs_ahead: int = 0) -> None:
        """``inputs_ahead`` micro-batches are held beside a step's own: accelerate's loader is one ahead, on the host,
        which is the device where that is a CPU (``DataLoaderShard.__iter__``)."""
        self._trace = trace
        self._inputs_ahead = inputs_ahead
        self._categories = np.array(trace.categories, dtype=np.int64)
        ends = trace.phase_ends
        events = trace.events
        self._resident = [event - 1 for event in events[: ends[Phase.BEFORE]]]
        self._fetched = [event for event in events[ends[Phase.BEFORE] : ends[Phase.FETCH]]]
        self._forward = list(events[ends[Phase.FETCH] : ends[Phase.FORWARD]])
        self._backward = list(events[ends[Phase.FORWARD] : ends[Phase.BACKWARD]])
        self._update = list(events[ends[Phase.BACKWARD] : ends[Phase.UPDATE]])
        taken = {event - 1 for event in self._update if event > 0}
        freed = {-event - 1 for event in self._update if event < 0}
        self._state = sorted(taken - freed)
        self._inputs = sorted(block for block in range(len(trace.sizes)) if trace.categories[block] == Category.INPUTS)

    def first_step(self, accumulation: int, sizes: Sequence[int] | Integers | None = None) -> Timeline:
        """The first optimizer step after the model was built: its update makes the optimizer's state."""
        return self._step(accumulation, sizes, has_state=False)

    def steady_step(self, accumulation: int, sizes: Sequence[int] | Integers | None = None) -> Timeline:
        """Any later optimizer step."""
        return self._step(accumulation, sizes, has_state=True)

    def _step(self, accumulation: int, sizes: Sequence[int] | Integers | None, *, has_state: bool) -> Timeline:
        own = np.array(self._trace.sizes if sizes is None else sizes, dtype=np.int64)
        events: list[int] = []
        phases: list[int] = []
        copies: list[int] = []  # blocks of which there are several at a time: which block each is like

        def play(part: Sequence[int], phase: Phase) -> None:
            events.extend(part)
            phases.extend([int(phase)] * len(part))

        def copies_of(blocks: Sequence[int]) -> list[int]:
            first = len(own) + len(copies)
            copies.extend(blocks)
            return list(range(first, first + len(blocks)))

        play([block + 1 for block in self._resident], Phase.BEFORE)
        last_inputs: list[int] = []
        if has_state:
            play([block + 1 for block in self._state], Phase.BEFORE)
            last_inputs = copies_of(self._inputs * accumulation)
            play([block + 1 for block in last_inputs], Phase.BEFORE)
        play([block + 1 for block in copies_of(self._inputs * self._inputs_ahead)], Phase.BEFORE)
        others = copies_of(self._inputs * (accumulation - 1))
        play(self._fetched, Phase.FETCH)
        play([block + 1 for block in others], Phase.FETCH)
        play([-(block + 1) for block in last_inputs], Phase.FETCH)
        play(self._forward, Phase.FORWARD)
        play(self._backward, Phase.BACKWARD)
        if accumulation > 1:
            # Of any number of further micro-steps the second is as good as all: it finds what each finds.
            left = self._left_over()
            play([-(block + 1) for block in left], Phase.FORWARD)
            play(self._forward, Phase.FORWARD)
            incoming = sorted(set(self._trace.gradient_events) - set(self._trace.cloned_gradients))
            first_incoming = len(copies)
            play(self._accumulating_backward(dict(zip(incoming, copies_of(incoming), strict=True))), Phase.BACKWARD)
            are_incoming = slice(first_incoming, len(copies))
        state = set(self._state)
        play(self._update if not has_state else [e for e in self._update if e - 1 not in state], Phase.UPDATE)
        copied = np.array(copies, dtype=np.int64)
        kinds = self._categories[copied]
        if accumulation > 1:
            kinds[are_incoming] = Category.TEMPORARIES
        return Timeline(
            events=np.array(events, dtype=np.int64),
            phases=np.array(phases, dtype=np.int64),
            sizes=np.concatenate([own, own[copied]]),
            categories=np.concatenate([self._categories, kinds]),
        )

    def _left_over(self) -> list[int]:
        """Blocks that a micro-step leaves behind and that are not gradients: its loss, mostly."""
        alive: set[int] = set()
        for event in (*self._forward, *self._backward):
            (alive.add if event > 0 else alive.discard)(abs(event) - 1)
        return sorted(alive - set(self._trace.gradient_events))

    def _accumulating_backward(self, incoming: dict[int, int]) -> list[int]:
        """The backward pass where gradients are there already; ``incoming`` numbers the blocks of the new ones."""
        begin = self._trace.phase_ends[Phase.FORWARD]
        added_at: dict[int, list[int]] = {}
        for block in incoming:
            added_at.setdefault(self._trace.gradient_events[block] - begin, []).append(incoming[block])
        cloned = set(self._trace.cloned_gradients)
        played: list[int] = []
        for number, event in enumerate([*self._backward, 0]):
            played += [-(block + 1) for block in added_at.get(number, ())]
            block = abs(event) - 1
            if event and block not in cloned:
                number_now = incoming.get(block, block) + 1
                played.append(number_now if event > 0 else -number_now)
        return played
