"""One job in one process: ``python -P -m autofit.trial.worker JOB.json`` runs a trial by hand.

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
from pathlib import Path

from autofit.failures import classify_exception
from autofit.trial.protocol import (
    JobFiles,
    Phase,
    ProbeJob,
    RatesJob,
    Result,
    StepJob,
    StepResult,
    TraceJob,
    TrialResult,
    note_phase,
    read_job,
    write_document,
)


def run_job(job_path: Path) -> Result:
    """Run the job and write its result. A failure of the trial is a result, not an exception."""
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
    # Imported here: by hand, the environment above must be there before torch is; in a fork it costs nothing.
    from autofit.trial.accelerator import CapTooSmallError, accelerator_for, hide_devices
    from autofit.trial.measure import measure
    from autofit.trial.probe import probe

    if isinstance(job, ProbeJob):
        result: Result = probe(job)
    elif isinstance(job, TraceJob):
        # Traces need no device, and several processes make them: each would open the one that is visible.
        hide_devices()
        from autofit.tracer.batch import trace_all

        result = trace_all(job)
    elif isinstance(job, RatesJob):
        from autofit.trial.measure_rates import measure_rates

        result = measure_rates(accelerator_for(job.device))
    elif isinstance(job, StepJob):
        from autofit.trial.one_step import train_one_step

        try:
            result = train_one_step(job)
        except Exception as error:  # a failure is a result
            traceback.print_exc()
            outcome, reason = classify_exception(error)
            result = StepResult(outcome=outcome, reason=reason)
    else:
        accelerator = accelerator_for(job.device)
        try:
            result = measure(job, accelerator, note)
        except CapTooSmallError as error:
            from autofit.outcome import Outcome

            result = TrialResult(outcome=Outcome.OOM, reason=str(error))
        except Exception as error:  # every failure of a trial is a row with its reason
            is_near_cap = accelerator.is_near_cap()
            accelerator.release()
            traceback.print_exc()
            outcome, reason = classify_exception(error, is_near_cap=is_near_cap)
            result = TrialResult(outcome=outcome, reason=reason)
        accelerator.release()
    write_document(files.result, result)
    shutil.rmtree(files.scratch, ignore_errors=True)
    note("done")
    return result


def main(arguments: list[str]) -> int:
    """The command line: one job file."""
    if len(arguments) != 1:
        print("usage: python -P -m autofit.trial.worker JOB.json", file=sys.stderr)
        return 2
    result = run_job(Path(arguments[0]))
    if isinstance(result, TrialResult):
        print(f"{result.outcome.value} {result.reason}".rstrip())
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # Skips the teardown of a device context and of thousands of tensors; the result is on the disk.
    os._exit(code)
