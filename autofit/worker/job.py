"""One job in one process: ``python -P -m autofit.worker.job JOB.json`` runs a trial by hand.

The result is written beside the job. Forked children of the trial server come in through ``run_job``,
so that a trial replayed by hand takes the same path.
"""

from __future__ import annotations

import getpass
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from autofit.device.kinds import kind_of
from autofit.study.outcome import Outcome
from autofit.study.trial import RunResult
from autofit.trial.failures import classify_exception
from autofit.trial.protocol import (
    BatchesJob,
    BatchesResult,
    Job,
    JobFiles,
    JobResult,
    Phase,
    ProbeJob,
    RatesJob,
    StepJob,
    StepResult,
    TraceJob,
    TrialJob,
    TrialResult,
    note_phase,
    read_job,
    write_document,
)
from autofit.worker.ranks import is_rank, own_rank, run_in_ranks

if TYPE_CHECKING:
    from autofit.worker.accelerator import Accelerator

Note = Callable[[Phase], None]
Handler = Callable[[Any, Note], JobResult]


def run_job(job_path: Path, handlers: Mapping[type, Handler] | None = None) -> JobResult:
    """Run the job by the handler of its kind and write its result. A failed trial is a result, not an exception."""
    files = JobFiles(job_path)

    def note(phase: Phase) -> None:
        note_phase(files.phases, phase, time.monotonic())

    note("start")
    # Beside the job, where whoever started it clears up after a worker that was killed.
    files.scratch.mkdir(exist_ok=True)
    # Compiled kernels stay where inductor keeps them by default: the next trial need not make them again.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/torchinductor_{getpass.getuser()}")
    tempfile.tempdir = str(files.scratch)
    job = read_job(job_path)
    os.environ.update(job.environment)
    if isinstance(job, TrialJob) and job.recipe.processes > 1 and not is_rank():
        result = run_in_ranks(job_path, job.recipe.processes, run_job)
    else:
        result = (handlers or HANDLERS)[type(job)](job, note)
    write_document(files.result, result)
    shutil.rmtree(files.scratch, ignore_errors=True)
    note("done")
    return result


def run_trial(accelerator: Accelerator, measure: Callable[[], RunResult]) -> TrialResult:
    """A trial's result; every failure of it is a row with its reason."""
    from autofit.worker.accelerator import CapTooSmallError

    try:
        run = measure()
    except CapTooSmallError as error:
        run = RunResult(outcome=Outcome.OOM, reason=str(error))
    except Exception as error:
        is_near_cap = accelerator.is_near_cap()
        accelerator.release()
        traceback.print_exc()
        outcome, reason = classify_exception(error, is_near_cap=is_near_cap)
        run = RunResult(outcome=outcome, reason=reason)
    accelerator.release()
    return TrialResult(run=run)


# Each imports what it needs itself: by hand, the job's environment must be there before torch is; in a fork it costs
# nothing.


def _probe(job: ProbeJob, note: Note) -> JobResult:
    from autofit.worker.probe import probe

    return probe(job)


def _trace(job: TraceJob, note: Note) -> JobResult:
    from autofit.worker.accelerator import hide_devices

    # Traces need no device, and several processes make them: each would open the one that is visible.
    hide_devices()
    from autofit.worker.tracer.batch import trace_all

    return trace_all(job)


def _measure_rates(job: RatesJob, note: Note) -> JobResult:
    from autofit.worker.accelerator import accelerator_for
    from autofit.worker.measure_rates import measure_rates

    return measure_rates(accelerator_for(job.device))


def _find_batches(job: BatchesJob, note: Note) -> JobResult:
    from autofit.worker.batches import StepBatches

    return BatchesResult(batches=tuple(StepBatches(layout, job.workload, job.seed).shapes() for layout in job.layouts))


def _train_one_step(job: StepJob, note: Note) -> JobResult:
    from autofit.worker.one_step import train_one_step

    try:
        return train_one_step(job)
    except Exception as error:  # a failure is a result
        traceback.print_exc()
        outcome, reason = classify_exception(error)
        return StepResult(outcome=outcome, reason=reason)


def _run_trial(job: TrialJob, note: Note) -> JobResult:
    from autofit.worker.accelerator import accelerator_for
    from autofit.worker.measure import measure

    if is_rank():
        # Several processes see all their devices, of which each has one; one process sees the one that is meant.
        job = msgspec.structs.replace(job, device=kind_of(job.device).label(own_rank()))
    accelerator = accelerator_for(job.device)
    return run_trial(accelerator, lambda: measure(job, accelerator, note))


HANDLERS: dict[type[Job], Handler] = {
    ProbeJob: _probe,
    TraceJob: _trace,
    RatesJob: _measure_rates,
    BatchesJob: _find_batches,
    StepJob: _train_one_step,
    TrialJob: _run_trial,
}


def main(arguments: list[str]) -> int:
    """The command line: one job file."""
    if len(arguments) != 1:
        print("usage: python -P -m autofit.worker.job JOB.json", file=sys.stderr)
        return 2
    result = run_job(Path(arguments[0]))
    if isinstance(result, TrialResult):
        print(f"{result.run.outcome.value} {result.run.reason}".rstrip())
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # Skips the teardown of a device context and of thousands of tensors; the result is on the disk.
    os._exit(code)
