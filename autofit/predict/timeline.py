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

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from autofit.predict.trace import Category, Phase, StepTrace

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
        """Bytes alive at the peak, by category; the values add up to ``peak_bytes``."""
        alive = self._is_alive_at_peak
        sums = np.bincount(self.categories[alive], weights=self.sizes[alive].astype(float), minlength=len(Category))
        return {category: int(sums[category]) for category in Category}

    def alive_at_peak(self) -> list[tuple[int, int, int]]:
        """Number, bytes and category of every block that is alive at the peak."""
        blocks = np.flatnonzero(self._is_alive_at_peak)
        return [(int(block), int(self.sizes[block]), int(self.categories[block])) for block in blocks]

    @cached_property
    def _is_alive_at_peak(self) -> npt.NDArray[np.bool_]:
        until = self.events[: int(self.live.argmax()) + 1]
        alive = np.zeros(len(self.sizes), dtype=bool)
        # The last event of a block decides; numpy keeps the last of repeated assignments.
        alive[np.abs(until) - 1] = until > 0
        return alive


@dataclass(frozen=True, kw_only=True)
class StepParts:
    """Events of the parts of a step, and the blocks that need a word: what stays (``state``), what every micro-batch
    has of its own (``inputs``), what a micro-step leaves behind that is no gradient (``left_over``), and the gradients
    that an ``accumulating`` backward pass adds to those that are there (``incoming``, by the gradients' own numbers).
    ``products`` are outputs of matrix products, ``stream_of`` is the trace's. Several processes end a step together:
    their ``last`` micro-step is like no other, and those ``between`` it and the first are alike; each is forward and
    backward.
    """

    before: tuple[int, ...]
    fetched: tuple[int, ...]
    forward: tuple[int, ...]
    backward: tuple[int, ...]
    accumulating: tuple[int, ...]
    between: tuple[int, ...]
    last: tuple[int, ...]
    update: tuple[int, ...]
    evaluation: tuple[int, ...]
    state: frozenset[int]
    inputs: tuple[int, ...]
    left_over: tuple[int, ...]
    incoming: tuple[int, ...]
    products: frozenset[int]
    stream_of: dict[int, int]


_PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::_grouped_mm")
_AHEAD, _OTHERS, _ALL, _ONE = range(4)
"""How many of a micro-batch's inputs a copied block stands for: those fetched ahead, the other micro-batches of the
step, all of the last step, or one of any block."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Template:
    """A timeline without its sizes. ``copied`` says which block each further one is like."""

    events: Integers
    phases: Integers
    copied: Integers
    multiplier: Integers
    categories: Integers


class _Script:
    """Events of a step as they are written down, and the further blocks that are like blocks of the trace."""

    def __init__(self, first_copy: int) -> None:
        """``first_copy`` is the number of the first block that the trace does not have."""
        self._first_copy = first_copy
        self.events: list[int] = []
        self.phases: list[int] = []
        self.copied: list[int] = []
        self.multiplier: list[int] = []

    def play(self, part: Sequence[int], phase: Phase) -> None:
        """Events of the trace, as they are."""
        self.events.extend(part)
        self.phases.extend([int(phase)] * len(part))

    def take(self, blocks: Sequence[int], phase: Phase) -> None:
        """Blocks come to be."""
        self.play([block + 1 for block in blocks], phase)

    def free(self, blocks: Sequence[int], phase: Phase) -> None:
        """Blocks are given back."""
        self.play([-(block + 1) for block in blocks], phase)

    def copies_of(self, blocks: Sequence[int], times: int) -> list[int]:
        """Numbers of as many further blocks, each of the size of one of these; ``times`` is how often there are any."""
        first = self._first_copy + len(self.copied)
        self.copied.extend(blocks)
        self.multiplier.extend([times] * len(blocks))
        return list(range(first, first + len(blocks)))


class StepBuilder:
    """Makes timelines of one trace; ``sizes`` may be those of another micro-batch of the same family."""

    def __init__(self, trace: StepTrace, *, inputs_ahead: int = 0) -> None:
        """``inputs_ahead`` micro-batches are held beside a step's own: accelerate's loader is one ahead, on the host,
        which is the device where that is a CPU (``DataLoaderShard.__iter__``)."""
        self.trace = trace
        self._inputs_ahead = inputs_ahead
        self.categories = np.array(trace.categories, dtype=np.int64)
        self._sizes = np.array(trace.sizes, dtype=np.int64)
        self._templates: dict[tuple[bool, bool], _Template] = {}
        ends = trace.phase_ends
        events = trace.events
        inputs = [block for block in range(len(trace.sizes)) if trace.categories[block] == Category.INPUTS]
        # Inputs of a second micro-batch are like those of the first, and come and go with all others'.
        self._inputs = inputs[: len(inputs) // (1 + len(trace.again) // 2)]
        further = set(inputs) - set(self._inputs)
        self._before = events[: ends[Phase.BEFORE]]
        passing = {-event - 1 for event in self._before if event < 0}
        self._resident = [event - 1 for event in self._before if event > 0 and event - 1 not in passing]
        self._fetched = [
            each for each in events[ends[Phase.BEFORE] : ends[Phase.FETCH]] if abs(each) - 1 not in further
        ]
        self._forward = list(events[ends[Phase.FETCH] : ends[Phase.FORWARD]])
        bounds = (*trace.again, ends[Phase.BACKWARD])
        self._backward = list(events[ends[Phase.FORWARD] : bounds[0]])
        self._further = [list(events[begin:end]) for begin, end in itertools.pairwise(bounds)]
        """Forward and backward pass of one micro-step in between, where there is one, and of the last."""
        update = events[ends[Phase.BACKWARD] : ends[Phase.UPDATE]]
        self._update = [event for event in update if abs(event) - 1 not in further]
        evaluation = events[ends[Phase.UPDATE] : ends[Phase.EVALUATION]]
        self._evaluation = [event for event in evaluation if abs(event) - 1 not in further]
        taken = {event - 1 for event in self._update if event > 0}
        freed = {-event - 1 for event in self._update if event < 0}
        self._state = sorted(taken - freed)

    def first_step(self, accumulation: int, sizes: Integers | None = None) -> Timeline:
        """The first optimizer step after the model was built: its update makes the optimizer's state."""
        return self._step(accumulation, sizes, has_state=False)

    def steady_step(self, accumulation: int, sizes: Integers | None = None) -> Timeline:
        """Any later optimizer step. ``sizes`` are the blocks' for another number of rows than was traced."""
        return self._step(accumulation, sizes, has_state=True)

    @cached_property
    def parts(self) -> StepParts:
        """The step taken apart, to be put together with other sizes for each micro-batch."""
        incoming = [] if self._further else self._incoming()
        return StepParts(
            before=tuple(self._before),
            fetched=tuple(self._fetched),
            forward=tuple(self._forward),
            backward=tuple(self._backward),
            accumulating=tuple(self._accumulating_backward({block: block for block in incoming})),
            between=tuple(itertools.chain.from_iterable(self._further[:-2])),
            last=tuple(itertools.chain.from_iterable(self._further[-2:])),
            update=tuple(self._update),
            evaluation=tuple(self._evaluation),
            state=frozenset(self._state),
            inputs=tuple(self._inputs),
            left_over=() if self._further else tuple(self._left_over()),
            incoming=tuple(incoming),
            products=frozenset(block for block, maker in enumerate(self.trace.makers) if maker in _PRODUCTS),
            stream_of=self.trace.stream_of,
        )

    def _incoming(self) -> list[int]:
        """Gradients that are added to those that are there and not copied into them."""
        return sorted(set(self.trace.gradient_events) - set(self.trace.cloned_gradients))

    def _step(self, accumulation: int, sizes: Integers | None, *, has_state: bool) -> Timeline:
        template = self._template(accumulation > 1, has_state)
        own = self._sizes if sizes is None else sizes
        # All further micro-batches' inputs are one block here: they come and go together.
        times = np.array([self._inputs_ahead, accumulation - 1, accumulation, 1], dtype=np.int64)
        return Timeline(
            events=template.events,
            phases=template.phases,
            sizes=np.concatenate([own, own[template.copied] * times[template.multiplier]]),
            categories=template.categories,
        )

    def _template(self, accumulates: bool, has_state: bool) -> _Template:
        key = (accumulates, has_state)
        if key not in self._templates:
            self._templates[key] = self._make_template(accumulates, has_state)
        return self._templates[key]

    def _make_template(self, accumulates: bool, has_state: bool) -> _Template:
        script = _Script(first_copy=len(self._sizes))
        script.take(self._resident, Phase.BEFORE)
        script.take(script.copies_of(self._inputs, _AHEAD), Phase.BEFORE)
        last_inputs: list[int] = []
        if has_state:
            script.take(self._state, Phase.BEFORE)
            last_inputs = script.copies_of(self._inputs, _ALL)
            script.take(last_inputs, Phase.BEFORE)
        script.play(self._fetched, Phase.FETCH)
        script.take(script.copies_of(self._inputs, _OTHERS), Phase.FETCH)
        script.free(last_inputs, Phase.FETCH)
        script.play(self._forward, Phase.FORWARD)
        script.play(self._backward, Phase.BACKWARD)
        first_incoming = number_incoming = 0
        for place, part in enumerate(self._further):
            script.play(part, Phase.BACKWARD if place % 2 else Phase.FORWARD)
        if accumulates and not self._further:
            # Of any number of further micro-steps the second is as good as all: it finds what each finds.
            script.free(self._left_over(), Phase.FORWARD)
            incoming = self._incoming()
            first_incoming, number_incoming = len(script.copied), len(incoming)
            numbers = dict(zip(incoming, script.copies_of(incoming, _ONE), strict=True))
            # Liger's loss makes the gradient of the head in the forward pass.
            script.play([_renumbered(event, numbers) for event in self._forward], Phase.FORWARD)
            script.play(self._accumulating_backward(numbers), Phase.BACKWARD)
        state = set(self._state)
        script.play([event for event in self._update if not (has_state and event - 1 in state)], Phase.UPDATE)
        blocks = np.array(script.copied, dtype=np.int64)
        kinds = self.categories[blocks]
        kinds[first_incoming : first_incoming + number_incoming] = Category.TEMPORARIES
        return _Template(
            events=np.array(script.events, dtype=np.int64),
            phases=np.array(script.phases, dtype=np.int64),
            copied=blocks,
            multiplier=np.array(script.multiplier, dtype=np.int64),
            categories=np.concatenate([self.categories, kinds]),
        )

    def _left_over(self) -> list[int]:
        """Blocks that a micro-step leaves behind and that are not gradients: its loss, mostly."""
        alive: set[int] = set()
        for event in (*self._forward, *self._backward):
            (alive.add if event > 0 else alive.discard)(abs(event) - 1)
        return sorted(alive - set(self.trace.gradient_events))

    def _accumulating_backward(self, incoming: dict[int, int]) -> list[int]:
        """The backward pass where gradients are there already; ``incoming`` numbers the blocks of the new ones."""
        begin = self.trace.phase_ends[Phase.FORWARD]
        added_at: dict[int, list[int]] = {}
        for block in incoming:
            added_at.setdefault(self.trace.gradient_events[block] - begin, []).append(incoming[block])
        cloned = set(self.trace.cloned_gradients)
        played: list[int] = []
        for number, event in enumerate([*self._backward, 0]):
            played += [-(block + 1) for block in added_at.get(number, ())]
            block = abs(event) - 1
            if event and block not in cloned:
                played.append(_renumbered(event, incoming))
        return played


def _renumbered(event: int, numbers: dict[int, int]) -> int:
    number = numbers.get(abs(event) - 1, abs(event) - 1) + 1
    return number if event > 0 else -number
