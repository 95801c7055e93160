"""A trial of a model that is built here: the model, the samples, the Trainer, and what is measured of them."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments, set_seed

from autofit.job.tasks import task_named
from autofit.study.measurement import BatchShape
from autofit.study.outcome import Outcome
from autofit.study.trial import RunResult
from autofit.trial.failures import classify_exception
from autofit.trial.protocol import Phase, TrialJob
from autofit.worker.accelerator import Accelerator, Processor
from autofit.worker.batches import GivenMicroBatches, StepBatches
from autofit.worker.build import build_collator, build_trial_model, import_what_it_needs, training_arguments
from autofit.worker.collated import bytes_of
from autofit.worker.instrument import MeasuredTrainer, StepRecorder, check_shapes
from autofit.worker.isolation import RowsAreApart, SharedRowsLeakError, autocast_of, leak_between_samples
from autofit.worker.made_up_samples import SamplesByLength
from autofit.worker.optimizer_state import state_tensors
from autofit.worker.processes import agreement, allow_sharding_on_host, check_sharding, meet
from autofit.worker.ranks import own_rank
from autofit.worker.step_planner import StepPlanner
from autofit.worker.timed_run import TimedRun


def measure(job: TrialJob, accelerator: Accelerator, note: Callable[[Phase], None]) -> RunResult:
    """Run one trial. Raises whatever the libraries raise; the worker classifies it."""
    note("build")
    began = time.perf_counter()
    set_seed(job.plan.seed)
    import_what_it_needs(job.recipe)
    # Before the baseline: what choosing micro-batches allocates (numpy's LAPACK keeps 32 MiB) is not the job's.
    batches = StepBatches(job.recipe, job.workload, job.plan.seed)
    to_time = [] if job.plan.whole else batches.to_time()
    model = _build(job, accelerator)
    build_seconds = time.perf_counter() - began

    recipe, lengths = job.recipe, job.workload.lengths
    samples = SamplesByLength(task_named(job.workload.task), model.config, lengths.longest, job.plan.seed)
    collator = build_collator(recipe, model.config)
    steps = StepPlanner(
        job.plan, batches, to_time, recipe.accumulation_steps, forgets_kernels=accelerator.forgets_kernels
    )
    with tempfile.TemporaryDirectory(prefix="autofit-") as scratch:
        arguments = training_arguments(job, Path(scratch), steps.micro_steps, steps.most_steps)
        allow_sharding_on_host(arguments, recipe)
        recorder = StepRecorder(
            accelerator, micro_steps=steps.micro_steps, most_steps=steps.most_steps, agree=agreement(arguments)
        )
        trainer = MeasuredTrainer(model=model, args=arguments, train_dataset=samples, data_collator=collator)
        _give(trainer, steps, batches, recorder, note)
        if recipe.shares_rows:
            context, device = autocast_of(arguments), arguments.device
            trainer.add_callback(
                RowsAreApart(lambda: leak_between_samples(trainer.model, collator, samples, context, device))
            )

        def evaluate() -> tuple[int, float]:
            assert state_tensors(trainer.optimizer), "the optimizer state must exist when the peak is read"
            check_sharding(trainer.model_wrapped, recipe)
            return _evaluate(trainer, samples, lengths.longest_samples(recipe.micro_batch_size), accelerator)

        run = TimedRun(
            recipe=recipe,
            plan=job.plan,
            batches=batches,
            steps=steps,
            recorder=recorder,
            accelerator=accelerator,
            trainer=trainer,
            train=trainer.train,
            evaluate=evaluate,
            worst_inputs=lambda: bytes_of(
                collator([samples[each] for each in batches.share(batches.worst[0], own_rank())])
            ),
            note=note,
            is_whole=job.plan.whole or (steps.micro_steps == recipe.accumulation_steps and lengths.all_equal),
            build_seconds=build_seconds,
        )
        try:
            return run.result()
        except SharedRowsLeakError as leak:
            return RunResult(outcome=Outcome.INVALID, reason=str(leak))


def _build(job: TrialJob, accelerator: Accelerator) -> Any:
    """The model, in the memory that the training is given."""
    # ZeRO-3 cuts what is built while there are arguments that say so.
    arguments = _meet(job, accelerator) if job.recipe.processes > 1 else None
    accelerator.open(job.memory, reserved_for_paging=job.expected_paged_bytes)
    model = build_trial_model(job)
    del arguments
    if job.recipe.quantization is None:
        # Quantized weights are made on the device in a training, too.
        accelerator.forget_drawing()
    accelerator.synchronize()
    return model


def _meet(job: TrialJob, accelerator: Accelerator) -> TrainingArguments:
    """Form the process group by a training's arguments, before the memory that it is given is counted from here."""
    if isinstance(accelerator, Processor):
        accelerator.is_alone = False
    with tempfile.TemporaryDirectory(prefix="autofit-") as scratch:
        arguments = training_arguments(job, Path(scratch), 1, 1)
        allow_sharding_on_host(arguments, job.recipe)
        meet(arguments)
    return arguments


def _give(
    trainer: MeasuredTrainer,
    steps: StepPlanner,
    batches: StepBatches,
    recorder: StepRecorder,
    note: Callable[[Phase], None],
) -> None:
    """Have a trainer run the planned micro-batches and mark where its steps begin and end."""
    rank = own_rank()

    def own_micro_batches() -> Iterator[list[int]]:
        return (list(batches.share(tuple(each), rank)) for each in steps.micro_batches())

    def own_shapes() -> list[BatchShape]:
        return [batches.own_shape(tuple(each), rank) for each in steps.micro_batches_now()]

    trainer.recorder = recorder
    trainer.sampler = GivenMicroBatches(own_micro_batches, steps.most_steps * steps.micro_steps)
    if trainer.args.world_size > 1:
        # accelerate 1.11 asks for one; nothing is cut by it.
        trainer.sampler.batch_size = batches.processes
    trainer.check_fetched = lambda fetched: check_shapes(fetched, own_shapes())
    trainer.before_first_micro_step = functools.partial(note, "first_micro_step")


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
        # Of several processes the others are in the middle of the same evaluation: none can begin another alone.
        if outcome is not Outcome.OOM or len(longest) == 1 or trainer.args.world_size > 1:
            raise
    # Out of the except block, so that the traceback no longer holds the tensors that filled the memory.
    accelerator.forget_peak()
    began = time.perf_counter()
    _evaluate_at(trainer, samples, longest[:1])
    return 1, time.perf_counter() - began


def _evaluate_at(trainer: Any, samples: SamplesByLength, longest: list[int]) -> None:
    trainer.args.per_device_eval_batch_size = len(longest)
    trainer.evaluate(eval_dataset=torch.utils.data.Subset(samples, longest * trainer.args.world_size))
