"""The protocol of a trial: build, train as the schedule says, evaluate, read the peaks."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from autofit.failures import classify_exception
from autofit.measurement import Measurement
from autofit.outcome import Outcome
from autofit.tasks import task_named
from autofit.trial.accelerator import Accelerator
from autofit.trial.batches import GivenMicroBatches, StepBatches
from autofit.trial.build import build_collator, build_trial_model, import_what_it_needs, training_arguments
from autofit.trial.compilation import compiled_graphs
from autofit.trial.instrument import MeasuredTrainer, SkippedSteps, StepEnds, StepRecorder
from autofit.trial.isolation import autocast_of, leak_between_samples
from autofit.trial.optimizer_state import state_tensors
from autofit.trial.protocol import Phase, TrialJob, TrialResult
from autofit.trial.samples import SamplesByLength, bytes_on_device
from autofit.trial.schedule import Schedule


def measure(job: TrialJob, accelerator: Accelerator, note: Callable[[Phase], None]) -> TrialResult:
    """Run one trial. Raises whatever the libraries raise; the worker classifies it."""
    note("build")
    began = time.perf_counter()
    set_seed(job.plan.seed)
    import_what_it_needs(job.recipe)
    # Before the baseline: what choosing micro-batches allocates (numpy's LAPACK keeps 32 MiB) is not the job's.
    batches = StepBatches(job.recipe, job.workload, job.plan.seed)
    to_time = [] if job.plan.whole else batches.to_time()
    accelerator.open(job.memory, reserved_for_paging=job.expected_paged_bytes)
    model = build_trial_model(job)
    accelerator.synchronize()
    build_seconds = time.perf_counter() - began

    recipe = job.recipe
    task = task_named(job.workload.task)
    samples = SamplesByLength(task, model.config, job.workload.lengths.longest, job.plan.seed)
    collator = build_collator(recipe, model.config)
    schedule = Schedule(job.plan, accelerator, batches, to_time, recipe.accumulation_steps, note=note)
    micro_steps = schedule.micro_steps
    recorder = StepRecorder(accelerator, micro_steps=micro_steps, most_steps=schedule.most_steps)
    with tempfile.TemporaryDirectory(prefix="autofit-") as scratch:
        trainer = MeasuredTrainer(
            model=model,
            args=training_arguments(job, Path(scratch), micro_steps, schedule.most_steps),
            train_dataset=samples,
            data_collator=collator,
        )
        schedule.follow(recorder, SkippedSteps(trainer))
        trainer.recorder = recorder
        trainer.sampler = GivenMicroBatches(schedule.micro_batches, schedule.most_steps * micro_steps)
        trainer.shapes_now = schedule.shapes_now
        trainer.before_first_micro_step = lambda moment: note("first_micro_step")
        trainer.add_callback(StepEnds(recorder, schedule.finished))
        if recipe.shares_rows:
            leak = leak_between_samples(trainer.model, collator, samples, autocast_of(trainer.args))
            if leak is not None:
                return TrialResult(outcome=Outcome.INVALID, reason=leak)
        note("train")
        recorder.begin()
        trainer.train()
        losses = recorder.losses()
        if schedule.surely_slower:
            ratio = schedule.fastest_warm_step() / (job.plan.slower_than_seconds or math.inf)
            return TrialResult(outcome=Outcome.SLOWER, reason=f"its fastest warm step took {ratio:.1f} times the best")
        if not schedule.windows:
            return TrialResult(
                outcome=Outcome.INVALID,
                reason=f"the optimizer skipped too many of its first {len(schedule.warmup)} steps (overflow in fp16)",
            )
        if None in losses:
            broken = losses.index(None) // micro_steps + 1
            return TrialResult(outcome=Outcome.INVALID, reason=f"the loss was not finite in optimizer step {broken}")
        assert trainer.optimizer.state_dict()["state"], "the optimizer state must exist before the peak is read"
        graphs = compiled_graphs()
        retries = accelerator.alloc_retries() - schedule.retries_when_warm
        note("evaluate")
        # The Trainer moves all micro-batches of a step to the device before the first forward.
        worst = collator([samples[length] for length in batches.worst[0]])
        missing = (recipe.accumulation_steps - micro_steps) * bytes_on_device(worst)
        longest = job.workload.lengths.longest_samples(recipe.micro_batch_size)
        memory = accelerator.memory(_paged_bytes(trainer.optimizer), missing_inputs=missing)
        evaluated, evaluation_seconds = _evaluate(trainer, samples, longest, accelerator)
        accelerator.synchronize()
        memory = memory.at_least(accelerator.memory(_paged_bytes(trainer.optimizer), missing_inputs=0))
    if retries:
        return TrialResult(
            outcome=Outcome.OOM,
            reason=f"too close to the limit: the allocator emptied its cache and asked again {retries} times when warm",
        )
    measurement = Measurement(
        micro_batch_size=recipe.micro_batch_size,
        accumulation_steps=recipe.accumulation_steps,
        processes=recipe.processes,
        tokens_per_step=batches.mean_tokens,
        padded_tokens_per_step=batches.mean_load,
        whole=job.plan.whole or (micro_steps == recipe.accumulation_steps and job.workload.lengths.all_equal),
        warmup=tuple(schedule.warmup),
        windows=tuple(schedule.windows),
        shape_shares=schedule.shape_shares,
        losses=tuple(losses),
        memory=memory,
        evaluation_batch_size=evaluated,
        evaluation_seconds=evaluation_seconds,
        build_seconds=build_seconds,
        late_compilations=graphs - schedule.graphs_when_warm,
    )
    return TrialResult(outcome=Outcome.OK, measurement=measurement)


def _evaluate(
    trainer: Any, samples: SamplesByLength, longest: list[int], accelerator: Accelerator
) -> tuple[int, float]:
    """One evaluation batch of the longest samples with the optimizer state alive; one sample where all do not fit.

    Evaluation can need more than training, as it keeps every logit at once.
    """
    began = time.perf_counter()
    try:
        _evaluate_at(trainer, samples, longest)
        return len(longest), time.perf_counter() - began
    except RuntimeError as error:
        outcome, _ = classify_exception(error)
        if outcome is not Outcome.OOM or len(longest) == 1:
            raise
    # Out of the except block, so that the traceback no longer holds the tensors that filled the memory.
    accelerator.forget_peak()
    began = time.perf_counter()
    _evaluate_at(trainer, samples, longest[:1])
    return 1, time.perf_counter() - began


def _evaluate_at(trainer: Any, samples: SamplesByLength, longest: list[int]) -> None:
    trainer.args.per_device_eval_batch_size = len(longest)
    trainer.evaluate(eval_dataset=torch.utils.data.Subset(samples, longest))


def _paged_bytes(optimizer: Any) -> int:
    """Bytes of the optimizer state that bitsandbytes keeps in managed memory."""
    paged = [tensor for tensor in state_tensors(optimizer) if getattr(tensor, "is_paged", False)]
    return sum(tensor.numel() * tensor.element_size() for tensor in paged)
