"""Clocks of a trial: timed windows around its planned steps, and the decision when there are enough."""

from __future__ import annotations

import time
from collections.abc import Callable

from autofit.study.measurement import Window, expected_step
from autofit.trial.protocol import SLOWER_FACTOR, MeasuringPlan, Phase
from autofit.worker.accelerator import Accelerator
from autofit.worker.compilation import compiled_graphs
from autofit.worker.instrument import StepRecorder
from autofit.worker.step_planner import PlannedStep, StepPlanner

CLOSE_CONTENDER = 2
"""What cannot be told from the best is measured to so many times the precision, while there is patience."""


class Schedule:
    """Opens and closes windows around planned steps, and says when the trial is over."""

    def __init__(
        self,
        plan: MeasuringPlan,
        steps: StepPlanner,
        recorder: StepRecorder,
        accelerator: Accelerator,
        *,
        step_was_skipped: Callable[[], bool],
        note: Callable[[Phase], None],
    ) -> None:
        """``recorder`` records the ``steps``; ``step_was_skipped`` tells if the optimizer left the last one out."""
        self.progress = steps.progress
        self.retries_when_warm = 0
        self.graphs_when_warm = 0
        self.surely_slower = False
        self._plan = plan
        self._steps = steps
        self._recorder = recorder
        self._accelerator = accelerator
        self._step_was_skipped = step_was_skipped
        self._note = note
        self._window_began = 0.0
        self._window_loads: list[float] = []
        self._load_before = accelerator.load()

    def finished(self) -> bool:
        """Called at the end of each optimizer step."""
        step = self._steps.end_step()
        following = self._steps.following()
        if step.window is None:
            self._end_untimed(step)
            if self.surely_slower:
                return True
            following = self._steps.following()
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
        pairs = list(zip(self.progress.warmup, self.progress.warmup_loads, strict=True))[1:]
        return min(step.composed(self._steps.accumulation_steps) / max(load, 1.0) for step, load in pairs)

    def _end_untimed(self, step: PlannedStep) -> None:
        self._accelerator.synchronize()
        if not self.progress.warmup:
            self._note("first_step")
        for seconds in self._recorder.steps():
            self.progress.warmup.append(seconds)
            self.progress.warmup_loads.append(step.load)
        if self.progress.is_warm:
            return
        # With fp16 the first steps are often skipped, and have no optimizer state yet.
        self.progress.real_steps += not self._step_was_skipped()
        best = self._plan.slower_than_seconds
        if best is not None and len(self.progress.warmup) >= 3 and self.fastest_warm_step() > SLOWER_FACTOR * best:
            self.surely_slower = True
        elif self._settled():
            self.progress.is_warm = True
            self._note("warm")
            self.retries_when_warm = self._accelerator.alloc_retries()
            self.graphs_when_warm = compiled_graphs()
            self._steps.adopt_drawn_steps()

    def _settled(self) -> bool:
        if self.progress.real_steps < self._plan.warmup_steps:
            return False
        if len(self.progress.warmup) >= self._plan.warmup_limit:
            return True
        if self.progress.warmup_loads[-1] != self.progress.warmup_loads[-2]:
            return False
        last, before = self.progress.warmup[-1].total, self.progress.warmup[-2].total
        return abs(last - before) <= self._plan.warmup_agreement * max(last, before)

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
        self.progress.windows.append(
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
        timed = self.progress.num_timed
        if timed * self._steps.micro_steps < self._plan.least_micro_batches:
            return False
        spent = sum(window.wall_seconds for window in self.progress.windows)
        if spent >= self._plan.patience_seconds or timed >= self._plan.most_steps:
            return True
        seconds, half_width = expected_step(
            self.progress.windows, self._steps.shape_shares, self._steps.accumulation_steps
        )
        best = self._plan.slower_than_seconds
        if best is None:
            return half_width <= self._plan.precision
        # Twice the 95 % half-width: of a thousand that are as fast as the best, none is taken for slower.
        if seconds * (1 - 2 * half_width) > best:
            return True
        return half_width <= self._plan.precision / CLOSE_CONTENDER
