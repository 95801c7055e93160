"""Schedule of a trial's optimizer steps: warm-up, timed windows until there are enough, the worst again.

The micro-batches of a step are asked for before the step before it has ended (loaders fetch ahead), so steps
are planned ahead and known again by their order.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from autofit.predict.micro_batches import FilledShape
from autofit.study.measurement import BatchShape, StepSeconds, Window, expected_step
from autofit.trial.protocol import SLOWER_FACTOR, MeasuringPlan, Phase
from autofit.worker.accelerator import Accelerator
from autofit.worker.batches import Batches, MicroBatch
from autofit.worker.compilation import compiled_graphs
from autofit.worker.instrument import StepRecorder

WINDOW_SECONDS = 2.0
MOST_COMPOSED_FROM = 3
"""Micro-steps of a shortened step: a first, an interior and a last one."""
CLOSE_CONTENDER = 2
"""What cannot be told from the best is measured to so many times the precision, while there is patience."""
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


class Schedule:
    """Plans steps, opens and closes windows around them, and decides when to stop.

    Short trials time a few shapes, each in steps of ``micro_steps`` equal micro-batches; whole ones time
    effective batches of the frozen list. Every trial begins with the worst micro-batch, warms up on a
    typical one, and ends with the worst again.
    """

    def __init__(
        self,
        plan: MeasuringPlan,
        accelerator: Accelerator,
        batches: Batches,
        to_time: Sequence[tuple[MicroBatch, float]],
        accumulation_steps: int,
        *,
        note: Callable[[Phase], None],
    ) -> None:
        """``to_time`` are micro-batches and the shares they stand for; empty for whole steps."""
        whole = not to_time
        self._plan = plan
        self._accelerator = accelerator
        self._batches = batches
        self._accumulation_steps = accumulation_steps
        self.micro_steps = accumulation_steps if whole else min(accumulation_steps, MOST_COMPOSED_FROM)
        self._note = note
        self._mean_load = batches.mean_load
        self._to_time = sorted(to_time, key=lambda pair: -pair[1])
        self._balanced = batches.in_balanced_order() if whole else []
        self._whole_steps = itertools.cycle(self._balanced)
        self._planned: deque[PlannedStep] = deque()
        self._last_planned: PlannedStep | None = None
        self._drawn: deque[PlannedStep] = deque()
        self._num_windows = 0
        self._is_warm = False
        self._has_met_many = False
        self._real_steps = 0
        self._window_began = 0.0
        self._window_loads: list[float] = []
        self._load_before = accelerator.load()
        self.warmup: list[StepSeconds] = []
        self._warmup_loads: list[float] = []
        self.windows: list[Window] = []
        self.shape_shares = tuple((batches.shape(micro_batch), share) for micro_batch, share in self._to_time)
        self.retries_when_warm = 0
        self.graphs_when_warm = 0
        self.surely_slower = False

    def follow(self, recorder: StepRecorder, step_was_skipped: Callable[[], bool]) -> None:
        """Say where steps are recorded, and how to ask whether the optimizer skipped the last one."""
        self._recorder = recorder
        self._step_was_skipped = step_was_skipped

    @property
    def most_steps(self) -> int:
        """Optimizer steps that the schedule may take at most."""
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

    def finished(self) -> bool:
        """Called at the end of each optimizer step."""
        step = self._drawn.popleft()
        following = self._following()
        if step.window is None:
            self._end_untimed(step)
            if self.surely_slower:
                return True
            following = self._following()
        elif following.window != step.window:
            self._close_window(step)
        else:
            self._window_loads.append(step.load)
            return False
        if step.ends_round and self._is_enough():
            return True
        if following.window is not None and following.window != step.window:
            self._open_window()
        self._recorder.begin()
        return False

    def fastest_warm_step(self) -> float:
        """Seconds at the full accumulation and the mean load, the first step left out; noise only adds to it.

        Bringing a heavy step to the mean load in proportion gives too little rather than too much, as what
        does not grow with the load is made smaller too.
        """
        pairs = list(zip(self.warmup, self._warmup_loads, strict=True))[1:]
        return min(step.composed(self._accumulation_steps) / max(load, 1.0) for step, load in pairs)

    def _following(self) -> PlannedStep:
        if self._drawn:
            return self._drawn[0]
        if not self._planned:
            self._plan_ahead()
        return self._planned[0]

    def _end_untimed(self, step: PlannedStep) -> None:
        self._accelerator.synchronize()
        if not self.warmup:
            self._note("first_step")
        for seconds in self._recorder.steps():
            self.warmup.append(seconds)
            self._warmup_loads.append(step.load)
        if self._is_warm:
            return
        # With fp16 the first steps are often skipped, and have no optimizer state yet.
        self._real_steps += not self._step_was_skipped()
        best = self._plan.slower_than_seconds
        if best is not None and len(self.warmup) >= 3 and self.fastest_warm_step() > SLOWER_FACTOR * best:
            self.surely_slower = True
        elif self._settled():
            self._is_warm = True
            self._note("warm")
            self.retries_when_warm = self._accelerator.alloc_retries()
            self.graphs_when_warm = compiled_graphs()
            self._adopt_drawn_steps()

    def _settled(self) -> bool:
        if self._real_steps < self._plan.warmup_steps:
            return False
        if len(self.warmup) >= self._plan.warmup_limit:
            return True
        if self._warmup_loads[-1] != self._warmup_loads[-2]:
            return False
        last, before = self.warmup[-1].total, self.warmup[-2].total
        return abs(last - before) <= self._plan.warmup_agreement * max(last, before)

    def _adopt_drawn_steps(self) -> None:
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
        if not self._is_warm:
            # The optimizer must have stepped twice with the worst before the peak is its own.
            needed = max(self._plan.warmup_steps, len(self._batches.worst)) - self._real_steps - len(self._drawn)
            number = len(self.warmup) + len(self._drawn)
            self._plan_step(self._with_worst(number) if needed > 0 else self._typical())
        elif self._to_time:
            self._plan_shapes()
        else:
            self._plan_whole_steps()

    def _plan_shapes(self) -> None:
        for micro_batch, share in self._to_time:
            step = self._alike(micro_batch)
            if self._last_planned is None or self._last_planned.shape != step.shape:
                # The first step after another shape loads kernels and asks the allocator for new sizes.
                self._plan_step(step)
            for _ in range(self._steps_for(step.load, share)):
                self._plan_step(self._alike(micro_batch, window=self._num_windows))
            self._num_windows += 1
        self._plan_mixed_steps()
        self._end_round()

    def _plan_whole_steps(self) -> None:
        timed = sum(len(window.steps) for window in self.windows)
        shapes_left = math.ceil(self._plan.least_micro_batches / self.micro_steps) - timed
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
        window = self._num_windows if self._accelerator.forgets_kernels else None
        for start in range(0, len(micro_batches) - self.micro_steps + 1, self.micro_steps):
            of_step = micro_batches[start : start + self.micro_steps]
            load = self._batches.load(of_step) * self._accumulation_steps / self.micro_steps / self._mean_load
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
        recent = list(zip(self.warmup, self._warmup_loads, strict=True))[-2:]
        mean_step = statistics.median(step.total / step_load for step, step_load in recent)
        # Going through several shapes again costs steps that are not timed, so it is done once if it can be.
        several = len(self._to_time) > 1
        seconds = self._plan.patience_seconds * share if several else min(WINDOW_SECONDS, self._plan.patience_seconds)
        wanted = math.ceil(seconds / (mean_step * load))
        least = max(FEWEST_PER_SHAPE, math.ceil(self._plan.least_steps * share))
        left = self._plan.most_steps - sum(len(window.steps) for window in self.windows)
        return max(FEWEST_PER_SHAPE, min(max(wanted, least), left))

    def _alike(self, micro_batch: MicroBatch, window: int | None = None) -> PlannedStep:
        shape = self._batches.shape(micro_batch)
        load = shape.padded_tokens * self._accumulation_steps / self._mean_load
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

    def _open_window(self) -> None:
        self._load_before = self._accelerator.load()
        self._window_loads = []
        self._accelerator.synchronize()
        self._window_began = time.perf_counter()

    def _close_window(self, step: PlannedStep) -> None:
        # While the device still works: its sensors say little of it once it rests.
        load_after = self._accelerator.load()
        self._accelerator.synchronize()
        (wall,) = self._recorder.agree([time.perf_counter() - self._window_began])
        self._window_loads.append(step.load)
        self.windows.append(
            Window(
                wall_seconds=wall,
                steps=self._recorder.steps(),
                shape=step.shape,
                step_loads=() if step.shape is not None else tuple(self._window_loads),
                load_before=self._load_before,
                load_after=load_after,
            )
        )

    def _is_enough(self) -> bool:
        timed = sum(len(window.steps) for window in self.windows)
        if timed * self.micro_steps < self._plan.least_micro_batches:
            return False
        spent = sum(window.wall_seconds for window in self.windows)
        if spent >= self._plan.patience_seconds or timed >= self._plan.most_steps:
            return True
        seconds, half_width = expected_step(self.windows, self.shape_shares, self._accumulation_steps)
        best = self._plan.slower_than_seconds
        if best is None:
            return half_width <= self._plan.precision
        # Twice the 95 % half-width: of a thousand that are as fast as the best, none is taken for slower.
        if seconds * (1 - 2 * half_width) > best:
            return True
        return half_width <= self._plan.precision / CLOSE_CONTENDER
