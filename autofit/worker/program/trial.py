"""A trial of a program's own Trainer: its model, samples, collator, loss and callbacks, with a configuration put in."""

from __future__ import annotations

import functools
import importlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from autofit.runtime.mixin import become
from autofit.study.trial import RunResult
from autofit.trial.protocol import MeasuringPlan, ProgramTrialJob, TrialResult
from autofit.worker.accelerator import Accelerator, CudaCard, Processor, accelerator_for
from autofit.worker.batches import GivenMicroBatches
from autofit.worker.collated import bytes_of
from autofit.worker.instrument import Marks, StepRecorder
from autofit.worker.job import Note, run_trial
from autofit.worker.processes import agreement, check_sharding, meet
from autofit.worker.program.device import device_of, give_device
from autofit.worker.program.samples import MOST_AHEAD, ProgramBatches, Source
from autofit.worker.program.settings import evaluates, leave_schedule_open, put, tell_deepspeed, tensors_of_models
from autofit.worker.step_planner import StepPlanner
from autofit.worker.timed_run import TimedRun

REPORTERS = ("transformers.integrations", "wandb", "mlflow", "comet_ml", "trackio", "swanlab")
"""Packages whose callbacks write somewhere: a trial is no run of the user's."""

IMPORTED_IN_THE_FIRST_STEP = ("torch._dynamo", "torch._inductor", "accelerate.data_loader")
"""By optimizers and loaders: what importing them takes is not the training's."""


def run_program_trial(trainer: Any, train: Callable[..., Any], job: ProgramTrialJob, note: Note) -> TrialResult:
    """One trial; every failure is a result. ``train`` is the Trainer's own method, unpatched."""
    accelerator = accelerator_for(device_of(trainer, job.device))
    if isinstance(accelerator, Processor):
        accelerator.is_alone = trainer.args.world_size == 1
    elif isinstance(accelerator, CudaCard) and job.in_use_before is not None and trainer.args.process_index == 0:
        accelerator.began_with(job.in_use_before)
    return run_trial(accelerator, lambda: _measure(trainer, train, job, accelerator, note))


class _Quiet(Marks):
    """Mixed into the program's own Trainer class: marks, the trial's own micro-batches, and nothing written."""

    given_loader: Any

    def get_train_dataloader(self) -> Any:
        return self.given_loader

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """No log, no evaluation and no checkpoint in a trial, whatever the strategies say."""

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Nor one that a callback asks for."""


def import_ahead() -> None:
    """Import what every training imports in its first step."""
    for module in IMPORTED_IN_THE_FIRST_STEP:
        importlib.import_module(module)


def _measure(
    trainer: Any, train: Callable[..., Any], job: ProgramTrialJob, accelerator: Accelerator, note: Note
) -> RunResult:
    note("build")
    began = time.perf_counter()
    import_ahead()
    recipe = job.recipe
    source = Source(trainer, fewest=job.samples.fewest)
    batches = ProgramBatches(recipe, job.samples, source)
    to_time = [] if job.plan.whole else batches.to_time()
    meet(trainer.args)
    accelerator.open(job.memory, reserved_for_paging=job.expected_paged_bytes, held_bytes=_host_bytes(trainer))
    give_device(trainer)
    put(trainer, recipe)
    accelerator.synchronize()
    num_workers = recipe.training_arguments.get("dataloader_num_workers", source.loader.num_workers)
    plan = _past_what_is_fetched_ahead(job.plan, num_workers)
    steps = StepPlanner(plan, batches, to_time, recipe.accumulation_steps, forgets_kernels=accelerator.forgets_kernels)
    recorder = StepRecorder(
        accelerator,
        micro_steps=steps.micro_steps,
        most_steps=steps.most_steps,
        agree=agreement(trainer.args),
    )
    _silence(trainer, steps)
    process = trainer.args.process_index

    def own_micro_batches() -> Iterator[list[int]]:
        return (list(batches.share(tuple(each), process)) for each in steps.micro_batches())

    sampler = GivenMicroBatches(own_micro_batches, steps.most_steps * steps.micro_steps)
    _give(trainer, source.loader_of(sampler, trainer.accelerator, num_workers), recorder, note)
    lengths = set(job.samples.lengths)

    def evaluate() -> tuple[int, float]:
        if recipe.training_arguments.get("fsdp"):
            check_sharding(trainer.model_wrapped, recipe)
        return _evaluate(trainer, source, job.samples.longest)

    return TimedRun(
        recipe=recipe,
        plan=plan,
        batches=batches,
        steps=steps,
        recorder=recorder,
        accelerator=accelerator,
        trainer=trainer,
        train=lambda: train(trainer),
        evaluate=evaluate,
        worst_inputs=lambda: bytes_of(source.batch(batches.share(batches.worst[0], process))),
        note=note,
        is_whole=job.plan.whole or (steps.micro_steps == recipe.accumulation_steps and len(lengths) == 1),
        build_seconds=time.perf_counter() - began,
        leaves_by_exception=True,
    ).result()


def _give(trainer: Any, loader: Any, recorder: StepRecorder, note: Note) -> None:
    """Have the program's trainer run a loader's micro-batches and mark where its steps begin and end."""
    become(trainer, _Quiet)
    trainer.given_loader = loader
    trainer.recorder = recorder
    # Collators may draw at random: what comes need not be what was looked at.
    trainer.check_fetched = lambda fetched: None
    trainer.before_first_micro_step = functools.partial(note, "first_micro_step")


def _past_what_is_fetched_ahead(plan: MeasuringPlan, num_workers: int) -> MeasuringPlan:
    """The plan with so long a warm-up that workers which are slower than the device have nothing left in store.

    They fetch ahead while the first step takes long: up to ``MOST_AHEAD`` micro-batches each, one a step at least.
    """
    more = num_workers * MOST_AHEAD
    return msgspec.structs.replace(plan, warmup_steps=plan.warmup_steps + more, warmup_limit=plan.warmup_limit + more)


def _silence(trainer: Any, steps: StepPlanner) -> None:
    """Keep what would write, report or end the trial early out of it; the program's own callbacks stay."""
    arguments = trainer.args
    arguments.gradient_accumulation_steps = steps.micro_steps
    tell_deepspeed(trainer)
    leave_schedule_open(trainer)
    arguments.max_steps = steps.most_steps
    arguments.disable_tqdm = True
    arguments.eval_on_start = False
    arguments.auto_find_batch_size = False
    arguments.save_total_limit = None
    arguments.resume_from_checkpoint = None
    handler = trainer.callback_handler
    handler.callbacks = [each for each in handler.callbacks if not type(each).__module__.startswith(REPORTERS)]


def _evaluate(trainer: Any, source: Source, longest: tuple[int, ...]) -> tuple[int, float]:
    """One evaluation batch of the longest samples, at the program's own size; none where it evaluates nothing.

    The program's metrics are left out: they are made for its own evaluation set.
    """
    arguments = trainer.args
    if not evaluates(arguments):
        return 0, 0.0
    size = arguments.per_device_eval_batch_size
    began = time.perf_counter()
    places = tuple((longest * (size // len(longest) + 1))[:size])
    inputs = source.batch(places)
    model = trainer._wrap_model(trainer.model, training=False)
    model.eval()
    trainer.prediction_step(model, inputs, prediction_loss_only=trainer.compute_metrics is None)
    return size, time.perf_counter() - began


def _host_bytes(trainer: Any) -> int:
    """Bytes of weights and buffers that lie in the host's memory."""
    tensors = [each for each in tensors_of_models(trainer) if each.device.type == "cpu"]
    return sum(each.numel() * each.element_size() for each in tensors)
