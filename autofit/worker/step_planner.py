"""Steps of a trial, planned before they are run: warm-up, timed steps of each shape or whole ones, the worst again.

The micro-batches of a step are asked for before the step before it has ended (loaders fetch ahead), so steps
are planned ahead and known again by their order.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from autofit.predict.micro_batches import FilledShape
from autofit.study.measurement import BatchShape, StepSeconds, Window
from autofit.trial.protocol import MeasuringPlan
from autofit.worker.batches import Batches, MicroBatch

WINDOW_SECONDS = 2.0
MOST_COMPOSED_FROM = 3
"""Micro-steps of a shortened step: a first, an interior and a last one."""
MIXED_SAMPLES, FEWEST_MIXED, MOST_MIXED = 64, 6, 32
"""Micro-batches of many shapes that a short trial runs: as many as these samples make, within the two bounds. With 6 of
them a BERT's need was 150 to 160 MiB short and 243 whole (2 x 8, lengths from 8 to 248), with 16 it was 188, with 32 it
was 232; what is left is the heap's own chance."""
FEWEST_PER_SHAPE = 2
"""Timed steps of a shape that hardly counts; two tell a spread."""


@dataclass(kw_only=True)
class PlannedStep:
    """One optimizer step to come. ``window`` numbers the timed window it belongs to; None where it is not timed.

    ``shape`` is that of all its micro-batches; None for a whole effective batch. ``load`` is its padded
    tokens, at the full accumulation, over those of the mean step.
    """

    micro_batches: Sequence[MicroBatch]
    shape: BatchShape | None
    load: float
    window: int | None = None
    ends_round: bool = False


@dataclass(kw_only=True)
class Progress:
    """Steps that have run: those of the warm-up with their loads, and the timed windows.

    ``real_steps`` are those of the warm-up that the optimizer did not skip.
    """

    warmup: list[StepSeconds] = field(default_factory=list)
    warmup_loads: list[float] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)
    real_steps: int = 0
    is_warm: bool = False

    @property
    def num_timed(self) -> int:
        """Number of timed steps."""
        return sum(len(window.steps) for window in self.windows)


class StepPlanner:
    """Plans the steps of a trial, from what its ``progress`` says.

    Short trials time a few shapes, each in steps of ``micro_steps`` equal micro-batches; whole ones time
    effective batches of the frozen list. Every trial begins with the worst micro-batch, warms up on a
    typical one, and ends with the worst again.
    """

    def __init__(
        self,
        plan: MeasuringPlan,
        batches: Batches,
        to_time: Sequence[tuple[MicroBatch, float]],
        accumulation_steps: int,
        *,
        forgets_kernels: bool,
    ) -> None:
        """``to_time`` are micro-batches and the shares they stand for; empty for whole steps.

        ``forgets_kernels`` says that a device makes kernels anew for shapes that it has not seen for a while.
        """
        self.progress = Progress()
        self.accumulation_steps = accumulation_steps
        self.micro_steps = min(accumulation_steps, MOST_COMPOSED_FROM) if to_time else accumulation_steps
        self.shape_shares = tuple((batches.shape(micro_batch), share) for micro_batch, share in _largest_first(to_time))
        self._plan = plan
        self._batches = batches
        self._forgets_kernels = forgets_kernels
        self._mean_load = batches.mean_load
        self._to_time = _largest_first(to_time)
        self._balanced = [] if to_time else batches.in_balanced_order()
        self._whole_steps = itertools.cycle(self._balanced)
        self._planned: deque[PlannedStep] = deque()
        self._drawn: deque[PlannedStep] = deque()
        self._last_planned: PlannedStep | None = None
        self._num_windows = 0
        self._has_met_many = False

    @property
    def most_steps(self) -> int:
        """Optimizer steps that the trial may take at most."""
        return self._plan.warmup_limit + 4 * self._plan.most_steps + 40

    def micro_batches(self) -> Iterator[list[int]]:
        """Without end: the micro-batches of one planned step after another, as indices into the samples."""
        while True:
            if not self._planned:
                self._plan_ahead()
            step = self._planned.popleft()
            self._drawn.append(step)
            for micro_batch in step.micro_batches:
                yield list(micro_batch)

    def micro_batches_now(self) -> list[MicroBatch]:
        """The micro-batches of the step that is being run."""
        return list(self._drawn[0].micro_batches)

    def end_step(self) -> PlannedStep:
        """The step that was being run; it is over now."""
        return self._drawn.popleft()

    def following(self) -> PlannedStep:
        """The step that comes next."""
        if self._drawn:
            return self._drawn[0]
        if not self._planned:
            self._plan_ahead()
        return self._planned[0]

    def adopt_drawn_steps(self) -> None:
        """Adopt a warm-up step where all steps are alike: one that was fetched ahead serves as the first timed one."""
        self._plan_ahead()
        first = self._planned[0]
        if first.window is None or any(self._shapes(step) != self._shapes(first) for step in self._drawn):
            return
        for step in self._drawn:
            step.window, step.load = first.window, first.load
            # In the place of a planned one of its window; a loader may have drawn more of them than it has.
            if len(self._planned) > 1 and self._planned[1].window == first.window:
                self._planned.popleft()

    def _shapes(self, step: PlannedStep) -> list[FilledShape]:
        return [self._batches.filled_shape(micro_batch) for micro_batch in step.micro_batches]

    def _plan_ahead(self) -> None:
        """One more warm-up step, or the next round of timed steps."""
        if not self.progress.is_warm:
            # The optimizer must have stepped twice with the worst before the peak is its own.
            needed = (
                max(self._plan.warmup_steps, len(self._batches.worst)) - self.progress.real_steps - len(self._drawn)
            )
            number = len(self.progress.warmup) + len(self._drawn)
            self._plan_step(self._with_worst(number) if needed > 0 else self._typical())
        elif self._to_time:
            self._plan_shapes()
        else:
            self._plan_whole_steps()

    def _plan_shapes(self) -> None:
        for micro_batch, share in self._to_time:
            step = self._alike(micro_batch)
            if self._last_planned is None or self._shapes(self._last_planned) != self._shapes(step):
                # The first step after another shape loads kernels and asks the allocator for new sizes.
                self._plan_step(step)
            for _ in range(self._steps_for(step.load, share)):
                self._plan_step(self._alike(micro_batch, window=self._num_windows))
            self._num_windows += 1
        self._plan_mixed_steps()
        self._end_round()

    def _plan_whole_steps(self) -> None:
        shapes_left = math.ceil(self._plan.least_micro_batches / self.micro_steps) - self.progress.num_timed
        for _ in range(max(self._steps_for(1.0, 1.0), shapes_left)):
            self._plan_step(self._whole(next(self._whole_steps), window=self._num_windows))
        self._num_windows += 1
        self._end_round()

    def _plan_mixed_steps(self) -> None:
        """Once in a short trial: steps of many shapes, as a training meets them.

        Odd shapes leave gaps in the heap, and kernels that are made for a shape stay in memory. Where those are
        forgotten again, the steps are timed, too: a shape that is repeated pays for its kernels once.
        """
        if self._has_met_many or self._batches.all_alike:
            return
        self._has_met_many = True
        number = max(FEWEST_MIXED, min(MOST_MIXED, MIXED_SAMPLES // len(self._to_time[0][0])))
        micro_batches = self._batches.spread(math.ceil(number / self.micro_steps) * self.micro_steps)
        window = self._num_windows if self._forgets_kernels else None
        for start in range(0, len(micro_batches) - self.micro_steps + 1, self.micro_steps):
            of_step = micro_batches[start : start + self.micro_steps]
            load = self._batches.load(of_step) * self.accumulation_steps / self.micro_steps / self._mean_load
            self._plan_step(PlannedStep(micro_batches=of_step, shape=None, load=load, window=window))
        self._num_windows += 1

    def _end_round(self) -> None:
        """With the worst again, unless that is what was timed."""
        for number, worst in enumerate(self._batches.worst):
            last = self._planned[-1]
            if last.window is None or any(self._batches.filled_shape(worst) != shape for shape in self._shapes(last)):
                self._plan_step(self._with_worst(number))
        self._planned[-1].ends_round = True

    def _plan_step(self, step: PlannedStep) -> None:
        self._planned.append(step)
        self._last_planned = step

    def _steps_for(self, load: float, share: float) -> int:
        """Number of timed steps of a load that fit into its share of a round."""
        recent = list(zip(self.progress.warmup, self.progress.warmup_loads, strict=True))[-2:]
        mean_step = statistics.median(step.total / step_load for step, step_load in recent)
        # Going through several shapes again costs steps that are not timed, so it is done once if it can be.
        several = len(self._to_time) > 1
        seconds = self._plan.patience_seconds * share if several else min(WINDOW_SECONDS, self._plan.patience_seconds)
        wanted = math.ceil(seconds / (mean_step * load))
        least = max(FEWEST_PER_SHAPE, math.ceil(self._plan.least_steps * share))
        left = self._plan.most_steps - self.progress.num_timed
        return max(FEWEST_PER_SHAPE, min(max(wanted, least), left))

    def _alike(self, micro_batch: MicroBatch, window: int | None = None) -> PlannedStep:
        shape = self._batches.shape(micro_batch)
        load = shape.padded_tokens * self.accumulation_steps / self._mean_load
        return PlannedStep(micro_batches=[micro_batch] * self.micro_steps, shape=shape, load=load, window=window)

    def _whole(self, effective_batch: Sequence[MicroBatch], window: int | None = None) -> PlannedStep:
        load = self._batches.load(effective_batch) / self._mean_load
        return PlannedStep(micro_batches=effective_batch, shape=None, load=load, window=window)

    def _typical(self) -> PlannedStep:
        """Micro-batches of the first timed step."""
        return self._alike(self._to_time[0][0]) if self._to_time else self._whole(self._balanced[0])

    def _with_worst(self, number: int) -> PlannedStep:
        """A step with the worst micro-batch: all of it in a short trial, once among others in a whole one.

        In a whole step it comes second where there is a second: gradients are alive by then.
        """
        worst = self._batches.worst[number % len(self._batches.worst)]
        if self._to_time:
            return self._alike(worst)
        effective_batch = list(self._batches.effective_batches[number % len(self._batches.effective_batches)])
        effective_batch[min(1, len(effective_batch) - 1)] = worst
        return self._whole(effective_batch)


def _largest_first(to_time: Sequence[tuple[MicroBatch, float]]) -> list[tuple[MicroBatch, float]]:
    return sorted(to_time, key=lambda pair: -pair[1])
