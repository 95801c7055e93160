"""The hook in a program: ``Trainer.train()`` becomes what the job says, and the program goes no further.

Everything that a trial changes is read again after ``train()`` begins, so nothing else is patched, and the program's
own arithmetic on its TrainingArguments sees its own values. Three exceptions: trials create no repository on the hub;
the way in which processes share the model is put in as the Trainer is made, which reads it; and where there is a GPU
the program is kept from opening it, so that it can be forked.
"""

from __future__ import annotations

import functools
import inspect
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import torch

from autofit.knobs.recipe import Recipe
from autofit.trial.program import ATTACH, JOB_VARIABLE, SOCKET_VARIABLE, TRAINER_VARIABLE
from autofit.trial.protocol import (
    JobFiles,
    ProgramBatchesJob,
    ProgramFactsJob,
    ProgramRunJob,
    ProgramTraceJob,
    ProgramTrialJob,
    RatesJob,
    TrialResult,
    read_job,
    write_document,
)
from autofit.worker.accelerator import devices_untouched
from autofit.worker.job import Handler, run_job
from autofit.worker.program.device import hold_device_back, lift_answers, wants_device
from autofit.worker.ranks import copy_for, is_failure

Train = Callable[..., Any]
LAUNCHERS_PRECISION = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
"""Precision that accelerate's launcher asks for, before any TrainingArguments are made."""
ATTACHED = "_autofit_attached"
"""Attribute of a Trainer that ``autofit.attach`` was given, with the call's name."""
RESUMES = "_autofit_resumes"
"""Attribute of a Trainer: whether its ``train()`` was told to go on from a checkpoint."""


def patch(module: ModuleType) -> None:
    """Patch ``transformers.trainer`` as it has just been imported."""
    trainer_class = module.Trainer
    serves = SOCKET_VARIABLE in os.environ
    job = None if serves else read_job(Path(os.environ[JOB_VARIABLE]))
    if serves:
        hold_device_back(module.TrainingArguments)
    if isinstance(job, ProgramRunJob):
        _patch_to_run(trainer_class, job)
        return
    train = trainer_class.train

    def prepare(arguments: Any) -> None:
        arguments.push_to_hub = False
        _share_as(getattr(job, "recipe", None), arguments)

    def stop(trainer: Any, *args: Any, **kwargs: Any) -> NoReturn:
        asked = inspect.signature(train).bind(trainer, *args, **kwargs).arguments
        setattr(trainer, RESUMES, bool(asked.get("resume_from_checkpoint")))
        if job is None:
            _end_with(lambda: _serve(trainer, train))
        _run_alone(trainer, train)

    def skip(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        return module.TrainOutput(0, 0.0, {})

    trainer_class.train = _where_meant(train, stop, skip)
    trainer_class.__init__ = _made_after(prepare, trainer_class.__init__)


def _made_after(prepare: Callable[[Any], None], create: Callable[..., None]) -> Callable[..., None]:
    """A Trainer's constructor that changes the TrainingArguments it is given before it reads them."""

    @functools.wraps(create)
    def created(self: Any, *args: Any, **kwargs: Any) -> None:
        arguments = inspect.signature(create).bind(self, *args, **kwargs).arguments.get("args")
        if arguments is not None:
            prepare(arguments)
        create(self, *args, **kwargs)

    return created


def _share_as(recipe: Recipe | None, arguments: Any) -> None:
    if recipe is not None:
        from autofit.worker.program.settings import put_before

        put_before(arguments, recipe)


def _where_meant(train: Train, act: Callable[..., Any], otherwise: Callable[..., Any]) -> Train:
    """A method in place of ``train``: ``act`` in the call that is meant, ``otherwise`` in all others."""
    calls = 0

    @functools.wraps(train)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return (act if _is_meant(self, calls) else otherwise)(self, *args, **kwargs)

    return called


def _is_meant(trainer: Any, calls: int) -> bool:
    """True for the call of ``train()`` that is meant: this Trainer's, by the number of calls so far."""
    meant = os.environ.get(TRAINER_VARIABLE, "1")
    if meant.startswith(ATTACH):
        return getattr(trainer, ATTACHED, "") == meant
    return calls == int(meant)


def _patch_to_run(trainer_class: Any, job: ProgramRunJob) -> None:
    """Have the program train to its end with the recipe put in, guarded against running out of memory."""
    train = trainer_class.train

    def guarded(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        make_ready(trainer, job)
        # The Trainer's own method, which a subclass may have called from its own: not through the object again.
        return trainer.trained(functools.partial(train, trainer), *args, **kwargs)

    trainer_class.train = _where_meant(train, guarded, train)
    trainer_class.__init__ = _made_after(functools.partial(_share_as, job.recipe), trainer_class.__init__)


def make_ready(trainer: Any, job: ProgramRunJob) -> None:
    """Put the recipe of a run to the end into a Trainer, and guard it."""
    from autofit.runtime.fit_callback import FitCallback
    from autofit.runtime.recovery import guard
    from autofit.worker.program.settings import put

    if job.recipe is not None:
        before = trainer.get_total_train_batch_size(trainer.args)
        put(trainer, job.recipe)
        after = trainer.get_total_train_batch_size(trainer.args)
        assert before == after, f"an effective batch of {before} would have become {after}"
    guard(trainer)
    trainer.add_callback(FitCallback(job.step_seconds, job.memory_bytes))


def _handlers(trainer: Any, train: Train) -> dict[type, Handler]:
    # Imported here: the program has imported the Trainer, and pays for no more until it trains.
    from autofit.worker.job import HANDLERS
    from autofit.worker.program.facts import facts_of
    from autofit.worker.program.tracing import micro_batches_of, trace_program
    from autofit.worker.program.trial import run_program_trial

    return {
        ProgramFactsJob: lambda job, note: facts_of(trainer, job),
        ProgramTrialJob: lambda job, note: run_program_trial(trainer, train, job, note),
        ProgramTraceJob: lambda job, note: trace_program(trainer, train, job),
        ProgramBatchesJob: lambda job, note: micro_batches_of(trainer, job),
        RatesJob: HANDLERS[RatesJob],
    }


def _run_alone(trainer: Any, train: Train) -> NoReturn:
    """Run the job that this process was started for, and end: the program would go on to save its model."""
    path = Path(os.environ[JOB_VARIABLE])
    if trainer.args.world_size > 1:
        _end_with(lambda: _run_among_others(trainer, path, _handlers(trainer, train)))
    _end_with(lambda: run_job(path, _handlers(trainer, train)))


def _end_with(work: Callable[[], object]) -> NoReturn:
    """Do the last thing that this process does: nothing may return into the program, which would go on."""
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run_among_others(trainer: Any, path: Path, handlers: dict[type, Handler]) -> None:
    """Run the job with the program's other processes: each its own copy, of which the first one's result counts.

    A failure of any is everybody's, and its process ends at once: the launcher then ends the others, which wait for it.
    """
    rank, result_path = trainer.args.process_index, JobFiles(path).result
    if isinstance(read_job(path), ProgramFactsJob):
        if rank == 0:
            run_job(path, handlers)
    else:
        own = copy_for(path, rank)
        result = run_job(own, handlers)
        has_failed = isinstance(result, TrialResult) and is_failure(result)
        # The first failure that is written is the cause: others fail because its process has gone.
        if (has_failed and not result_path.exists()) or (rank == 0 and not has_failed):
            write_document(result_path, result)
        if has_failed:
            raise SystemExit(f"process {rank} could not finish its trial")
    torch.distributed.barrier()  # one that leaves early makes a launcher end the others


def _serve(trainer: Any, train: Train) -> None:
    """Fork a worker from here for every job, until the other side closes; the program then ends."""
    from autofit.worker.program.trial import import_ahead
    from autofit.worker.server import send, serve, why_not_fork

    if trainer.args.process_index > 0:
        torch.distributed.barrier()
        return
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(os.environ[SOCKET_VARIABLE])
    handlers = _handlers(trainer, train)
    import_ahead()
    problem = _why_not_here(trainer) or why_not_fork(_device_of(trainer), lift_answers)
    send(connection, {"problem": problem} if problem else {"ready": True})
    if trainer.args.world_size > 1:
        torch.distributed.barrier()
    if problem is None:
        serve(connection, lambda job: None, lambda job: _in_a_new_thread(lambda: _run_forked(job, handlers)))


def _run_forked(path: Path, handlers: dict[type, Handler]) -> None:
    lift_answers()
    run_job(path, handlers)


def _in_a_new_thread(work: Callable[[], object]) -> None:
    """Run ``work`` in a thread of its own, and raise what it raises.

    OpenMP's pool belongs to the thread that made it. Its workers are gone in a forked child, and the main thread would
    wait for them for ever; a new thread makes a new pool.
    """
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def _why_not_here(trainer: Any) -> str | None:
    """A sentence's end where workers cannot be forked from this program."""
    if trainer.args.world_size > 1:
        return f"it runs in {trainer.args.world_size} processes"
    if not devices_untouched():
        return "it uses the GPU before it trains"
    if any(weight.device.type not in ("cpu", "meta") for weight in trainer.model.parameters()):
        return "its model lies on the device before it trains"
    if wants_device(trainer.args) and any(isinstance(each, torch.Tensor) for each in vars(trainer).values()):
        return "its Trainer holds tensors, which may belong on the device"
    return None


def _device_of(trainer: Any) -> str:
    """The device that a forked worker would open."""
    return "cuda:0" if wants_device(trainer.args) else "cpu"
