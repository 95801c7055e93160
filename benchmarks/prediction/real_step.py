"""Bytes that a real step of the real Trainer keeps alive on a CPU, by the allocator's own account (torch.profiler)."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd import DeviceType
from transformers import Trainer, TrainerCallback

from autofit.job.tasks import Task
from autofit.knobs.recipe import Recipe
from autofit.predict.trace import Phase
from autofit.worker.batches import GivenMicroBatches
from autofit.worker.build import build_collator, short_arguments
from autofit.worker.made_up_samples import SamplesByLength
from autofit.worker.processes import allow_sharding_on_host, keep_whole

EXCHANGES = ("gloo:all_gather", "c10d::_allgather_base_")
"""Beginnings of the names, as the profiler has them, of exchanges that are waited for and take scratch memory."""


def real_phase_peaks(
    build: Callable[[], Any], recipe: Recipe, task: Task, micro_batch: Sequence[int], accumulation: int
) -> dict[Phase, int]:
    """Bytes alive at most in each phase of the second optimizer step, weights and optimizer state included.

    The profiler tells of every block that the CPU allocator gives out and takes back, from before the first step on
    (it does not tell when a block goes that was there before it). The weights, which were, are added by size.

    oneDNN is off: it takes scratch memory for its 16-bit products through the same allocator, how much depends on the
    processor (gpt2 in bf16: 0 with AVX2, 2.0 % with AVX-512, 2.3 % with its bf16 instructions), and the prediction
    claims nothing of it. What it really takes is measured by every trial.
    """
    model = build()
    states = [weight.quant_state for weight in model.parameters() if getattr(weight, "quant_state", None) is not None]
    states += [state.state2 for state in states if state.state2 is not None]
    scales = [each for state in states for each in vars(state).values() if torch.is_tensor(each)]
    there: list[int] = []
    samples = SamplesByLength(task, model.config, max(micro_batch), 0)
    sampler = GivenMicroBatches(lambda: iter([list(micro_batch)] * (3 * accumulation)), 3 * accumulation)

    class Marked(Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            return sampler

        def get_train_dataloader(self) -> Any:
            return keep_whole(super().get_train_dataloader(), sampler)

        def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
            if self.state.global_step == 0:
                there.append(_bytes([*self.model.parameters(), *self.model.buffers(), *scales]))
                profiler.start()
            with _mark("fetch", self.state.global_step == 1):
                return super().get_batch_samples(*args, **kwargs)

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            with _mark("micro_step", self.state.global_step == 1):
                return super().training_step(*args, **kwargs)

    class End(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            if state.global_step == 2:
                with _mark("end", True):
                    pass
                profiler.stop()
                there.append(_first_buckets(trainer))
                control.should_training_stop = True
            return control

    profiler = torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, record_shapes=False
    )
    with tempfile.TemporaryDirectory(prefix="autofit-") as scratch:
        arguments = short_arguments(
            recipe,
            scratch,
            max_steps=3,
            per_device_train_batch_size=len(micro_batch),
            gradient_accumulation_steps=accumulation,
            use_cpu=True,
        )
        allow_sharding_on_host(arguments, recipe)
        trainer = Marked(
            model=model, args=arguments, train_dataset=samples, data_collator=build_collator(recipe, model.config)
        )
        backward = trainer.accelerator.backward

        def marked(*args: Any, **kwargs: Any) -> Any:
            with _mark("backward", trainer.state.global_step == 1):
                return backward(*args, **kwargs)

        trainer.accelerator.backward = marked
        trainer.add_callback(End())
        with torch.backends.mkldnn.flags(enabled=False):
            trainer.train()
    return _peaks(profiler.profiler.kineto_results.events(), sum(there))


def _mark(name: str, wanted: bool) -> Any:
    return torch.profiler.record_function(f"autofit:{name}") if wanted else contextlib.nullcontext()


def _first_buckets(trainer: Any) -> int:
    """Bytes of DDP's buckets of gradients that were made with the model; none where it made others after a step."""
    model = trainer.model_wrapped
    if not isinstance(model, torch.nn.parallel.DistributedDataParallel):
        return 0
    if not model.find_unused_parameters:
        return 0
    return sum(int(size) for size in model._get_ddp_logging_data()["bucket_sizes"].split(","))


def _bytes(tensors: Any) -> int:
    parts = [getattr(each, "_local_tensor", each) for each in tensors]
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in parts}
    return sum(storages.values())


def _peaks(events: Any, there: int) -> dict[Phase, int]:
    spans: dict[str, list[tuple[int, int]]] = {}
    exchanges: list[tuple[int, int]] = []
    changes: list[tuple[int, int]] = []
    for event in events:
        if event.name() == "[memory]" and event.device_type() == DeviceType.CPU:
            changes.append((event.start_ns(), event.nbytes()))
        elif event.name().startswith("autofit:"):
            spans.setdefault(event.name(), []).append((event.start_ns(), event.end_ns()))
        elif event.name().startswith(EXCHANGES):
            exchanges.append((event.start_ns(), event.end_ns()))
    changes = sorted((_end_of_exchange(moment, exchanges), change) for moment, change in changes)
    begin = spans["autofit:fetch"][0][0]
    end = spans["autofit:end"][0][0]
    live = there
    peaks: dict[Phase, int] = {}
    for moment, change in changes:
        live += change
        if begin <= moment <= end:
            phase = _phase_at(moment, spans)
            peaks[phase] = max(peaks.get(phase, 0), live)
    return peaks


def _end_of_exchange(moment: int, exchanges: list[tuple[int, int]]) -> int:
    """The end of the exchange that a moment is in, or the moment: what comes and goes in one is gloo's own scratch."""
    return max((end for begin, end in exchanges if begin <= moment <= end), default=moment)


def _phase_at(moment: int, spans: dict[str, list[tuple[int, int]]]) -> Phase:
    def inside(name: str) -> bool:
        return any(begin <= moment <= end for begin, end in spans.get(name, ()))

    if inside("autofit:backward"):
        return Phase.BACKWARD
    if moment <= spans["autofit:micro_step"][-1][1] and not inside("autofit:fetch"):
        return Phase.FORWARD
    return Phase.FETCH if inside("autofit:fetch") else Phase.UPDATE
