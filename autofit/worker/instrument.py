"""Marks inside the real Trainer: two overridden methods, one callback and DeepSpeed's step, all of which call on.

The Trainer's callbacks alone are not enough: a step's batches are fetched before ``on_step_begin``,
clipping happens before ``on_pre_optimizer_step``, and no callback sees the loss.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback

from autofit.study.measurement import BatchShape, StepSeconds
from autofit.worker.accelerator import Accelerator, Mark
from autofit.worker.collated import shape_of_batch
from autofit.worker.processes import keep_whole

Agree = Callable[[list[float]], list[float]]


class StepRecorder:
    """Collects the marks of one optimizer step after another.

    A step's marks are: where the last step ended, the fetch's begin and end, the end of each micro-step,
    the step's end. Nothing here waits for the device.

    ``agree`` makes numbers of several processes one, the largest: a step takes as long as its slowest process.
    """

    def __init__(
        self, accelerator: Accelerator, *, micro_steps: int, most_steps: int, agree: Agree = lambda numbers: numbers
    ) -> None:
        self._accelerator = accelerator
        self.agree = agree
        self._micro_steps = micro_steps
        self._marks: list[Mark] = []
        self._steps: list[list[Mark]] = []
        # One block made beforehand: a kept tensor per micro-step would pin the heap or the cache in small
        # places, and the trial would need more memory than the training it stands for.
        self._losses = torch.full((most_steps * micro_steps,), math.nan, device=accelerator.torch_device)
        self._num_losses = 0
        self._is_updating = False

    def begin(self) -> None:
        """Forget the steps so far; the next one starts now."""
        self._steps = []
        self._marks = [self._accelerator.mark()]

    def fetch_begun(self) -> None:
        """The Trainer asks for the next optimizer step's micro-batches."""
        self._marks.append(self._accelerator.mark())

    def fetched(self) -> None:
        """They are there."""
        self._marks.append(self._accelerator.mark())

    def micro_step_ended(self, loss: torch.Tensor) -> None:
        """One forward and backward pass is queued; its loss is kept, unread, for after the windows."""
        self._losses[self._num_losses] = loss.detach()
        self._num_losses += 1
        if not self._is_updating:
            self._marks.append(self._accelerator.mark())
        self._is_updating = False

    def update_begun(self) -> None:
        """The pass that is under way is queued but for the update, which an engine makes as a part of it."""
        self._is_updating = True
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
        spans = [self._accelerator.seconds(a, b) for marks in self._steps for a, b in itertools.pairwise(marks)]
        agreed = iter(self.agree(spans))
        return tuple(_cut([next(agreed) for _ in marks[1:]]) for marks in self._steps)


def _cut(spans: list[float]) -> StepSeconds:
    loop, fetch, *micro_steps, update = spans
    return StepSeconds(loop=loop, fetch=fetch, micro_steps=tuple(micro_steps), update=update)


class Marks:
    """Mixed into a Trainer's class: marks around its fetch and after each of its training steps.

    ``check_fetched`` raises where the step's micro-batches are not those that were to be timed.
    """

    recorder: StepRecorder
    check_fetched: Callable[[list[Any]], None]
    before_first_micro_step: Callable[[], None]
    deepspeed: Any
    _has_stepped = False

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        self.recorder.fetch_begun()
        batches, num_items_in_batch = super().get_batch_samples(*args, **kwargs)  # type: ignore[misc]
        self.check_fetched(batches)
        self.recorder.fetched()
        return batches, num_items_in_batch

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        if not self._has_stepped:
            self._has_stepped = True
            self.before_first_micro_step()
            if self.deepspeed is not None:
                mark_update(self.deepspeed, self.recorder)
        loss = super().training_step(*args, **kwargs)  # type: ignore[misc]
        self.recorder.micro_step_ended(loss)
        return loss


def mark_update(engine: Any, recorder: StepRecorder) -> None:
    """Have DeepSpeed's engine mark where its update begins: backward makes it, after the step's last micro-batch."""
    step = engine.step

    def marked(*args: Any, **kwargs: Any) -> Any:
        if engine.is_gradient_accumulation_boundary():
            recorder.update_begun()
        return step(*args, **kwargs)

    engine.step = marked


class MeasuredTrainer(Marks, Trainer):  # type: ignore[misc]
    """The Trainer with marks, and with the trial's sampler instead of its own."""

    sampler: Sampler[Any]

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        return self.sampler

    def get_train_dataloader(self) -> Any:
        return keep_whole(super().get_train_dataloader(), self.sampler)


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


def check_shapes(batches: list[dict[str, torch.Tensor]], claimed: list[BatchShape]) -> None:
    """Raises AssertionError where micro-batches are not what the trial claims to time."""
    found = [shape_of_batch(batch) for batch in batches]
    assert found == claimed, f"a step of {found} came where {claimed} was to be timed"
