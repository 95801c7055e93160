"""The protocol of a trial: build, warm up, time in windows, evaluate, read the peaks."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from autofit.failures import classify_exception
from autofit.measurement import Measurement, StepSeconds, Window, relative_half_width
from autofit.outcome import Outcome
from autofit.trial.accelerator import Accelerator
from autofit.trial.build import RandomTokens, build_trial_model, micro_steps_run, training_arguments
from autofit.trial.instrument import MeasuredTrainer, StepEnds, StepRecorder
from autofit.trial.protocol import SLOWER_FACTOR, MeasuringPlan, Phase, TrialJob, TrialResult

WINDOW_SECONDS = 2.0


class WarmupAndWindows:
    """Decides after each optimizer step: more warm-up, a timed window, or enough.

    During warm-up every step is waited for and read. A window waits once before and once after it.
    """

    def __init__(
        self,
        plan: MeasuringPlan,
        accelerator: Accelerator,
        recorder: StepRecorder,
        accumulation_steps: int,
        step_was_skipped: Callable[[], bool],
        note: Callable[[Phase], None],
    ) -> None:
        self._plan = plan
        self._accelerator = accelerator
        self._recorder = recorder
        self._accumulation_steps = accumulation_steps
        self._step_was_skipped = step_was_skipped
        self._note = note
        self._real_steps = 0
        self._in_window = 0
        self._window_steps = 0
        self._window_began = 0.0
        self._load_before = accelerator.load()
        self.warmup: list[StepSeconds] = []
        self.windows: list[Window] = []
        self.retries_when_warm = 0
        self.surely_slower = False

    def finished(self) -> bool:
        """Called at the end of each optimizer step."""
        if self._window_steps:
            self._in_window += 1
            return self._in_window == self._window_steps and self._close_window()
        self._accelerator.synchronize()
        if not self.warmup:
            self._note("first_step")
        self.warmup.extend(self._recorder.steps())
        # With fp16 the first steps are often skipped, and have no optimizer state yet.
        self._real_steps += not self._step_was_skipped()
        if self._is_surely_slower():
            self.surely_slower = True
            return True
        if self._is_warm():
            self._note("warm")
            self.retries_when_warm = self._accelerator.alloc_retries()
            self._open_window()
        else:
            self._recorder.begin()
        return False

    def _is_surely_slower(self) -> bool:
        best = self._plan.slower_than_seconds
        if best is None or len(self.warmup) < 3:
            return False
        return self.fastest_warm_step() > SLOWER_FACTOR * best

    def fastest_warm_step(self) -> float:
        """Seconds at the full accumulation, the first step left out; interference only ever adds to it."""
        return min(step.composed(self._accumulation_steps) for step in self.warmup[1:])

    def _is_warm(self) -> bool:
        if self._real_steps < self._plan.warmup_steps:
            return False
        if len(self.warmup) >= self._plan.warmup_limit:
            return True
        last, before = self.warmup[-1].total, self.warmup[-2].total
        return abs(last - before) <= self._plan.warmup_agreement * max(last, before)

    def _open_window(self) -> None:
        step = statistics.median(step.total for step in self.warmup[-2:])
        wanted = math.ceil(min(WINDOW_SECONDS, self._plan.patience_seconds) / step)
        left = self._plan.most_steps - sum(len(window.steps) for window in self.windows)
        self._window_steps = min(max(wanted, self._plan.least_steps), left)
        self._in_window = 0
        self._load_before = self._accelerator.load()
        self._accelerator.synchronize()
        self._window_began = time.perf_counter()
        self._recorder.begin()

    def _close_window(self) -> bool:
        self._accelerator.synchronize()
        wall = time.perf_counter() - self._window_began
        self.windows.append(
            Window(
                wall_seconds=wall,
                steps=self._recorder.steps(),
                load_before=self._load_before,
                load_after=self._accelerator.load(),
            )
        )
        samples = tuple(step.composed(self._accumulation_steps) for window in self.windows for step in window.steps)
        spent = sum(window.wall_seconds for window in self.windows)
        if (
            relative_half_width(samples) <= self._plan.precision
            or spent >= self._plan.patience_seconds
            or len(samples) >= self._plan.most_steps
        ):
            return True
        self._open_window()
        return False


def measure(job: TrialJob, accelerator: Accelerator, note: Callable[[Phase], None]) -> TrialResult:
    """Run one trial. Raises whatever the libraries raise; the worker classifies it."""
    note("build")
    began = time.perf_counter()
    set_seed(job.plan.seed)
    accelerator.open(job.memory, reserved_for_paging=job.expected_paged_bytes)
    model = build_trial_model(job)
    accelerator.synchronize()
    build_seconds = time.perf_counter() - began

    recipe = job.recipe
    micro_steps = micro_steps_run(job)
    most_steps = job.plan.warmup_limit + job.plan.most_steps + 20
    samples_per_step = recipe.micro_batch_size * micro_steps
    vocabulary_size = int(model.config.get_text_config().vocab_size)
    dataset = RandomTokens(job.workload, vocabulary_size, most_steps * samples_per_step, job.plan.seed)
    recorder = StepRecorder(
        accelerator, micro_batch_size=recipe.micro_batch_size, micro_steps=micro_steps, most_steps=most_steps
    )
    with tempfile.TemporaryDirectory(prefix="autofit-") as scratch:
        trainer = MeasuredTrainer(
            model=model,
            args=training_arguments(job, Path(scratch), most_steps),
            train_dataset=dataset,
        )
        stepper = WarmupAndWindows(
            job.plan,
            accelerator,
            recorder,
            recipe.accumulation_steps,
            lambda: bool(trainer.accelerator.optimizer_step_was_skipped),
            note,
        )
        trainer.recorder = recorder
        trainer.before_first_micro_step = lambda moment: note("first_micro_step")
        trainer.add_callback(StepEnds(recorder, stepper.finished))
        note("train")
        recorder.begin()
        trainer.train()
        losses = recorder.losses()
        if stepper.surely_slower:
            ratio = stepper.fastest_warm_step() / (job.plan.slower_than_seconds or math.inf)
            return TrialResult(outcome=Outcome.SLOWER, reason=f"its fastest warm step took {ratio:.1f} times the best")
        if not stepper.windows:
            return TrialResult(
                outcome=Outcome.INVALID,
                reason=f"the optimizer skipped too many of its first {len(stepper.warmup)} steps (overflow in fp16)",
            )
        if None in losses:
            broken = losses.index(None) // micro_steps + 1
            return TrialResult(outcome=Outcome.INVALID, reason=f"the loss was not finite in optimizer step {broken}")
        assert trainer.optimizer.state_dict()["state"], "the optimizer state must exist before the peak is read"
        note("evaluate")
        evaluated, evaluation_seconds = _evaluate(trainer, dataset, recipe.micro_batch_size)
        accelerator.synchronize()
    missing = (recipe.accumulation_steps - micro_steps) * recipe.micro_batch_size * dataset.bytes_per_sample()
    memory = accelerator.memory(_paged_bytes(trainer.optimizer), missing_inputs=missing)
    retries = accelerator.alloc_retries() - stepper.retries_when_warm
    if retries:
        return TrialResult(
            outcome=Outcome.OOM,
            reason=f"too close to the limit: the allocator emptied its cache and asked again {retries} times when warm",
        )
    measurement = Measurement(
        micro_batch_size=recipe.micro_batch_size,
        accumulation_steps=recipe.accumulation_steps,
        processes=recipe.processes,
        tokens_per_step=float(job.workload.samples_per_process * job.workload.sequence_length),
        whole=micro_steps == recipe.accumulation_steps,
        warmup=tuple(stepper.warmup),
        windows=tuple(stepper.windows),
        losses=tuple(losses),
        memory=memory,
        evaluation_batch_size=evaluated,
        evaluation_seconds=evaluation_seconds,
        build_seconds=build_seconds,
    )
    return TrialResult(outcome=Outcome.OK, measurement=measurement)


def _evaluate(trainer: Any, dataset: RandomTokens, micro_batch_size: int) -> tuple[int, float]:
    """One evaluation batch with the optimizer state alive: at the micro-batch size, or 1 where that does not fit.

    Evaluation can need more than training, as it keeps every logit at once.
    """
    began = time.perf_counter()
    try:
        _evaluate_at(trainer, dataset, micro_batch_size)
        return micro_batch_size, time.perf_counter() - began
    except RuntimeError as error:
        outcome, _ = classify_exception(error)
        if outcome is not Outcome.OOM or micro_batch_size == 1:
            raise
    began = time.perf_counter()
    _evaluate_at(trainer, dataset, 1)
    return 1, time.perf_counter() - began


def _evaluate_at(trainer: Any, dataset: RandomTokens, size: int) -> None:
    trainer.args.per_device_eval_batch_size = size
    trainer.evaluate(eval_dataset=torch.utils.data.Subset(dataset, range(size)))


def _paged_bytes(optimizer: Any) -> int:
    """Bytes of the optimizer state that bitsandbytes keeps in managed memory."""
    inner = getattr(optimizer, "optimizer", optimizer)
    tensors = (value for state in inner.state.values() for value in state.values() if torch.is_tensor(value))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if getattr(tensor, "is_paged", False))
