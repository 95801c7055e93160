"""The part of a trial that every trial shares: train as the schedule says, judge, evaluate, read the peaks."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from autofit.knobs.recipe import Recipe
from autofit.study.measurement import Measurement, Memory
from autofit.study.outcome import Outcome
from autofit.study.trial import RunResult
from autofit.trial.protocol import MeasuringPlan, Phase
from autofit.worker.accelerator import Accelerator
from autofit.worker.batches import Batches
from autofit.worker.compilation import compiled_graphs
from autofit.worker.instrument import SkippedSteps, StepEnds, StepRecorder
from autofit.worker.optimizer_state import state_tensors
from autofit.worker.schedule import Schedule
from autofit.worker.step_planner import StepPlanner


class TrainingOver(BaseException):
    """Leaves ``train()`` from a callback. No ``except Exception`` of a program takes it for its own."""


@dataclass(kw_only=True)
class TimedRun:
    """A Trainer that has its marks, and what is to be found out about it.

    ``train`` runs it until there are enough of the planned ``steps``. ``evaluate`` runs one evaluation batch with the
    optimizer state alive; it returns the batch's size (0 where the training never evaluates) and its seconds.
    ``worst_inputs`` gives the bytes of the worst micro-batch on the device: of a shortened step's other micro-batches,
    which the Trainer would have moved there, too.
    """

    recipe: Recipe
    plan: MeasuringPlan
    batches: Batches
    steps: StepPlanner
    recorder: StepRecorder
    accelerator: Accelerator
    trainer: Any
    train: Callable[[], None]
    evaluate: Callable[[], tuple[int, float]]
    worst_inputs: Callable[[], int]
    note: Callable[[Phase], None]
    is_whole: bool
    build_seconds: float
    leaves_by_exception: bool = False

    def result(self) -> RunResult:
        """The trial's result. Raises whatever the libraries raise."""
        self.note("train")
        schedule = Schedule(
            self.plan,
            self.steps,
            self.recorder,
            self.accelerator,
            step_was_skipped=SkippedSteps(self.trainer),
            note=self.note,
        )
        self.trainer.add_callback(StepEnds(self.recorder, lambda: self._is_over(schedule)))
        self.recorder.begin()
        with contextlib.suppress(TrainingOver):
            self.train()
        losses = self.recorder.losses()
        refused = self._refused(schedule, losses)
        if refused is not None:
            return refused
        graphs = compiled_graphs()
        (retries,) = self.recorder.agree([self.accelerator.alloc_retries() - schedule.retries_when_warm])
        memory, evaluated, evaluation_seconds = self._peaks()
        if retries:
            return RunResult(
                outcome=Outcome.OOM,
                reason=f"too close to the limit: the allocator emptied its cache and asked again {int(retries)} times "
                "when warm",
            )
        measurement = Measurement(
            micro_batch_size=self.recipe.micro_batch_size,
            accumulation_steps=self.recipe.accumulation_steps,
            processes=self.recipe.processes,
            tokens_per_step=self.batches.mean_tokens / self.batches.processes,
            padded_tokens_per_step=self.batches.mean_load / self.batches.processes,
            whole=self.is_whole,
            warmup=tuple(self.steps.progress.warmup),
            windows=tuple(self.steps.progress.windows),
            shape_shares=self.steps.shape_shares,
            losses=tuple(losses),
            memory=memory,
            evaluation_batch_size=evaluated,
            evaluation_seconds=evaluation_seconds,
            build_seconds=self.build_seconds,
            late_compilations=graphs - schedule.graphs_when_warm,
        )
        return RunResult(outcome=Outcome.OK, measurement=measurement)

    def _is_over(self, schedule: Schedule) -> bool:
        finished = schedule.finished()
        if finished and self.leaves_by_exception:
            raise TrainingOver
        return finished

    def _refused(self, schedule: Schedule, losses: list[float | None]) -> RunResult | None:
        """The result of a run that ended early or trained wrongly; None of one that can be measured."""
        if schedule.surely_slower:
            ratio = schedule.fastest_warm_step() / (self.plan.slower_than_seconds or math.inf)
            return RunResult(outcome=Outcome.SLOWER, reason=f"its fastest warm step took {ratio:.1f} times the best")
        if not schedule.progress.windows:
            number = len(schedule.progress.warmup)
            return RunResult(
                outcome=Outcome.INVALID,
                reason=f"the optimizer skipped too many of its first {number} steps (overflow in fp16)",
            )
        if None in losses:
            broken = losses.index(None) // self.steps.micro_steps + 1
            return RunResult(outcome=Outcome.INVALID, reason=f"the loss was not finite in optimizer step {broken}")
        return None

    def _peaks(self) -> tuple[Memory, int, float]:
        """Memory of training and of an evaluation after it, the evaluation's batch size and its seconds."""
        self.note("evaluate")
        # The Trainer moves all micro-batches of a step to the device before the first forward.
        missing = (self.recipe.accumulation_steps - self.steps.micro_steps) * self.worst_inputs()
        memory = self.accelerator.memory(_paged_bytes(self.trainer.optimizer), missing_inputs=missing)
        evaluated, seconds = self.evaluate()
        self.accelerator.synchronize()
        after = self.accelerator.memory(_paged_bytes(self.trainer.optimizer), missing_inputs=0)
        return self._largest(memory.at_least(after)), evaluated, seconds

    def _largest(self, memory: Memory) -> Memory:
        """Of all processes, the one that needs most."""
        names = ("peak_allocated", "peak_reserved", "context", "paged_state")
        agreed = self.recorder.agree([float(getattr(memory, name)) for name in names])
        return replace(memory, **{name: int(value) for name, value in zip(names, agreed, strict=True)})


def _paged_bytes(optimizer: Any) -> int:
    """Bytes of the optimizer state that bitsandbytes keeps in managed memory."""
    paged = [tensor for tensor in state_tensors(optimizer) if getattr(tensor, "is_paged", False)]
    return sum(tensor.numel() * tensor.element_size() for tensor in paged)
