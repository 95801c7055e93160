"""Trials of two processes with DeepSpeed on a CPU: ``python -m tests.worker.zero_on_cpu CASES FOLDER``.

CASES is a JSON list of mappings: knobs' values, and ``method`` and ``accumulation_steps``. Prints a JSON list of what
came of each: outcome, reason, losses, seconds of a step and of its update, bytes.

accelerate starts DeepSpeed on GPUs alone, and transformers takes ``bf16`` there for the GPU's; both are told otherwise
here. All else is what runs on GPUs.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import transformers.training_args
from accelerate.state import DistributedType, PartialState

from autofit.job.lengths import SampleLengths
from autofit.knobs import knob
from autofit.study.trial import RunResult
from autofit.trial.protocol import MeasuringPlan, MemoryPlan, TrialJob, TrialResult, write_document
from autofit.units import GIB
from autofit.worker.job import run_job
from benchmarks.prediction.live_bytes import LENGTH, ROWS, Case, request_of

PROCESSES = 2
PLAN = MeasuringPlan(warmup_steps=2, warmup_limit=2, least_steps=4, most_steps=4, patience_seconds=1.0)


def job_of(case: dict[str, Any]) -> TrialJob:
    """A trial of a tiny model. ``parallelism`` may be DDP's or one of DeepSpeed's."""
    own = dict(case)
    lengths = tuple(own.pop("lengths", (LENGTH,) * ROWS))
    sharing = knob("parallelism").choice(own.pop("parallelism"))
    request, recipe = request_of(Case(architecture=own.pop("architecture", "llama"), lengths=lengths, **own))
    arguments = {**recipe.training_arguments, **sharing.training_arguments}
    if "deepspeed" in arguments:
        arguments.pop("use_cpu")
    return TrialJob(
        model=request.model,
        workload=replace(
            request.workload,
            processes=PROCESSES,
            effective_batch=PROCESSES * request.workload.effective_batch,
            lengths=SampleLengths.of(lengths * 16),
        ),
        recipe=replace(recipe, training_arguments=arguments, processes=PROCESSES),
        device="cpu",
        memory=MemoryPlan(own_bytes=8 * GIB),
        plan=PLAN,
    )


def said(run: RunResult) -> dict[str, Any]:
    """The part of a result that tests look at."""
    measured = run.measurement
    if measured is None:
        return {"outcome": run.outcome.value, "reason": run.reason}
    steps = [step for window in measured.windows for step in window.steps]
    return {
        "outcome": run.outcome.value,
        "losses": measured.losses,
        "micro_steps": [list(step.micro_steps) for step in steps],
        "updates": [step.update for step in steps],
        "bytes": measured.memory.needed,
    }


def main(cases: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """What came of each case."""
    PartialState._prepare_backend = lambda *args, **kwargs: ("gloo", DistributedType.MULTI_CPU)
    transformers.training_args.is_torch_bf16_gpu_available = lambda: True
    found = []
    for number, case in enumerate(cases):
        path = folder / f"trial-{number:04}.json"
        write_document(path, job_of(case))
        tempfile.tempdir = None  # a job sets it, for a process that ends with it
        result = run_job(path)
        assert isinstance(result, TrialResult)
        found.append(said(result.run))
    return found


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print("FOUND", json.dumps(main(json.loads(sys.argv[1]), Path(sys.argv[2]))))
