"""What a real step of the real Trainer keeps alive on a CPU, by the allocator's own account (torch.profiler)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd import DeviceType
from transformers import Trainer, TrainerCallback

from autofit.recipe import Recipe
from autofit.tasks import Task
from autofit.trace import Phase
from autofit.trial.batches import GivenMicroBatches
from autofit.trial.build import build_collator, short_arguments
from autofit.trial.samples import SamplesByLength


def real_phase_peaks(
    build: Callable[[], Any], recipe: Recipe, task: Task, micro_batch: Sequence[int], accumulation: int
) -> dict[Phase, int]:
    """Bytes alive at most in each phase of the second optimizer step, weights and optimizer state included.

    The profiler tells of every block that the CPU allocator gives out and takes back. What is alive when it
    starts (weights, state, the last step's inputs) is added by size.
    """
    model = build()
    samples = SamplesByLength(task, model.config, max(micro_batch), 0)
    marks: dict[str, int] = {}

    class Marked(Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            return GivenMicroBatches(lambda: iter([list(micro_batch)] * (2 * accumulation)), 2 * accumulation)

        def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
            if self.state.global_step == 1:
                profiler.start()
                with torch.profiler.record_function("autofit:fetch"):
                    batches = super().get_batch_samples(*args, **kwargs)
                return batches
            return super().get_batch_samples(*args, **kwargs)

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            with torch.profiler.record_function("autofit:micro_step"):
                return super().training_step(*args, **kwargs)

    class End(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            if state.global_step == 2:
                with torch.profiler.record_function("autofit:end"):
                    pass
                profiler.stop()
            return control

    profiler = torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, record_shapes=False
    )
    with tempfile.TemporaryDirectory(prefix="autofit-") as scratch:
        arguments = short_arguments(
            recipe,
            scratch,
            max_steps=2,
            per_device_train_batch_size=len(micro_batch),
            gradient_accumulation_steps=accumulation,
            use_cpu=True,
        )
        trainer = Marked(
            model=model, args=arguments, train_dataset=samples, data_collator=build_collator(recipe, model.config)
        )
        backward = trainer.accelerator.backward

        def marked(*args: Any, **kwargs: Any) -> Any:
            with torch.profiler.record_function("autofit:backward"):
                return backward(*args, **kwargs)

        trainer.accelerator.backward = marked
        trainer.add_callback(End())
        trainer.train()
        inner = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
        state = [value for each in inner.state.values() for value in each.values() if torch.is_tensor(value)]
        there = _bytes([*model.parameters(), *model.buffers(), *state])
    batch = build_collator(recipe, model.config)([samples[length] for length in micro_batch])
    there += accumulation * _bytes(batch.values())
    del marks
    return _peaks(profiler.profiler.kineto_results.events(), there)


def _bytes(tensors: Any) -> int:
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
    return sum(storages.values())


def _peaks(events: Any, there: int) -> dict[Phase, int]:
    spans: dict[str, list[tuple[int, int]]] = {}
    changes: list[tuple[int, int]] = []
    for event in events:
        if event.name() == "[memory]" and event.device_type() == DeviceType.CPU:
            changes.append((event.start_ns(), event.nbytes()))
        elif event.name().startswith("autofit:"):
            spans.setdefault(event.name(), []).append((event.start_ns(), event.end_ns()))
    changes.sort()
    live = there
    peaks: dict[Phase, int] = {}
    for moment, change in changes:
        live += change
        phase = _phase_at(moment, spans)
        peaks[phase] = max(peaks.get(phase, 0), live)
    return peaks


def _phase_at(moment: int, spans: dict[str, list[tuple[int, int]]]) -> Phase:
    def inside(name: str) -> bool:
        return any(begin <= moment <= end for begin, end in spans.get(name, ()))

    if inside("autofit:backward"):
        return Phase.BACKWARD
    if inside("autofit:micro_step"):
        return Phase.FORWARD
    if inside("autofit:fetch"):
        return Phase.FETCH
    first_micro_step = min(begin for begin, _ in spans["autofit:micro_step"])
    return Phase.FETCH if moment < first_micro_step else Phase.UPDATE
