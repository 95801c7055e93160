"""Marks inside the real Trainer: two overridden methods and one callback, all of which call on.

A third method gives it the trial's sampler instead of its own.

The Trainer's callbacks alone are not enough: a step's batches are fetched before ``on_step_begin``,
clipping happens before ``on_pre_optimizer_step``, and no callback sees the loss.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback

from autofit.measurement import BatchShape, StepSeconds
from autofit.trial.accelerator import Accelerator, Mark


class StepRecorder:
    """Collects the marks of one optimizer step after another.

    A step's marks are: where the last step ended, the fetch's begin and end, the end of each micro-step,
    the step's end. Nothing here waits for the device.
    """

    def __init__(self, accelerator: Accelerator, *, micro_steps: int, most_steps: int) -> None:
        self._accelerator = accelerator
        self._micro_steps = micro_steps
        self._marks: list[Mark] = []
        self._steps: list[list[Mark]] = []
        # One block made beforehand: a kept tensor per micro-step would pin the heap or the cache in small
        # places, and the trial would need more memory than the training it stands for.
        self._losses = torch.full((most_steps * micro_steps,), math.nan, device=accelerator.torch_device)
        self._num_losses = 0

    def begin(self) -> None:
        """Forget the steps so far; the next one starts now."""
        self._steps = []
        self._marks = [self._accelerator.mark()]

    def fetch_begun(self) -> None:
        """The Trainer asks for the next optimizer step's micro-batches."""
        self._marks.append(self._accelerator.mark())

    def fetched(self, batches: list[dict[str, torch.Tensor]], claimed: list[BatchShape]) -> None:
        """They are there. Checks that they are what the trial claims to time."""
        found = [rows_and_length(batch) for batch in batches]
        assert found == claimed, f"a step of {found} came where {claimed} was to be timed"
        self._marks.append(self._accelerator.mark())

    def micro_step_ended(self, loss: torch.Tensor) -> None:
        """One forward and backward pass is queued; its loss is kept, unread, for after the windows."""
        self._losses[self._num_losses] = loss.detach()
        self._num_losses += 1
        self._marks.append(self._accelerator.mark())

    def step_ended(self) -> None:
        """The optimizer step is queued."""
        end = self._accelerator.mark()
        self._marks.append(end)
        assert len(self._marks) == self._micro_steps + 4, "a step lost one of its marks"
        self._steps.append(self._marks)
        self._marks = [end]

    def losses(self) -> list[float | None]:
        """The loss of every micro-step so far, None where it is not finite. Waits for the device."""
        values = self._losses[: self._num_losses].tolist()
        return [value if math.isfinite(value) else None for value in values]

    def steps(self) -> tuple[StepSeconds, ...]:
        """Seconds of every step since ``begin``; the device must have finished them."""
        return tuple(self._cut(marks) for marks in self._steps)

    def _cut(self, marks: list[Mark]) -> StepSeconds:
        spans = [self._accelerator.seconds(a, b) for a, b in itertools.pairwise(marks)]
        loop, fetch, *micro_steps, update = spans
        return StepSeconds(loop=loop, fetch=fetch, micro_steps=tuple(micro_steps), update=update)


class MeasuredTrainer(Trainer):  # type: ignore[misc]
    """The Trainer, with marks around its fetch and after each of its training steps."""

    recorder: StepRecorder
    sampler: Sampler[Any]
    shapes_now: Callable[[], list[BatchShape]]
    before_first_micro_step: Callable[[float], None]
    _has_stepped = False

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        self.recorder.fetch_begun()
        batches, num_items_in_batch = super().get_batch_samples(*args, **kwargs)
        self.recorder.fetched(batches, self.shapes_now())
        return batches, num_items_in_batch

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        return self.sampler

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        if not self._has_stepped:
            self._has_stepped = True
            self.before_first_micro_step(time.monotonic())
        loss = super().training_step(*args, **kwargs)
        self.recorder.micro_step_ended(loss)
        return loss


class SkippedSteps:
    """Tells, once after each optimizer step, whether loss scaling left it out because gradients overflowed.

    The scale falls exactly then. ``optimizer_step_was_skipped`` of accelerate does not see it with fused optimizers,
    which leave the step out on the device (torch/amp/grad_scaler.py). Waits for the device.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._scale: float | None = None

    def __call__(self) -> bool:
        scaler = self._trainer.accelerator.scaler
        if scaler is None:
            return bool(self._trainer.accelerator.optimizer_step_was_skipped)
        before = scaler._init_scale if self._scale is None else self._scale
        self._scale = scaler.get_scale()
        return self._scale < before


class StepEnds(TrainerCallback):  # type: ignore[misc]
    """Marks the end of each optimizer step, then asks ``finished`` whether training should stop."""

    def __init__(self, recorder: StepRecorder, finished: Callable[[], bool]) -> None:
        self._recorder = recorder
        self._finished = finished

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        self._recorder.step_ended()
        if self._finished():
            control.should_training_stop = True
        return control


def rows_and_length(batch: dict[str, torch.Tensor]) -> BatchShape:
    """The shape of a collated micro-batch; an image counts as one token."""
    tokens = batch.get("input_ids")
    if tokens is None:
        return BatchShape(rows=len(batch["pixel_values"]), length=1)
    return BatchShape(rows=tokens.shape[0], length=tokens.shape[1])
