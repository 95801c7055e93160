"""Many traces in one job: in several processes side by side, each document written as soon as it is made."""

from __future__ import annotations

import gc
import os
import sys
import time
import traceback
from pathlib import Path

import msgspec
import torch

from autofit.predict.request import TraceDocument, TraceRequest
from autofit.tasks import task_named
from autofit.tracer.quantized import build_quantized
from autofit.tracer.step import trace_step
from autofit.tracer.target import Target
from autofit.trial.build import build_trial_model
from autofit.trial.protocol import TraceJob, TracesResult, write_document


def trace_all(job: TraceJob) -> TracesResult:
    """Write every request's document. A process that dies (a C++ terminate, say) leaves its rest undone."""
    number = min(job.processes, len(job.requests)) if sys.platform == "linux" else 1
    children = []
    for first in range(1, number):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                _trace_some(job.requests[first::number])
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    _trace_some(job.requests[::number])
    for child in children:
        os.waitpid(child, 0)
    return TracesResult()


def _trace_some(requests: tuple[TraceRequest, ...]) -> None:
    torch.set_num_threads(1)
    # The Trainer collects garbage as it starts; what was imported need not be looked through for that.
    gc.freeze()
    for request in requests:
        write_document(Path(request.path), trace_request(request))


def trace_request(request: TraceRequest) -> TraceDocument:
    """The document of one request; whatever a model raises becomes its refusal."""
    began = time.perf_counter()
    target = Target(kind=request.target, compute_capability=request.compute_capability)
    traceable = msgspec.structs.replace(request, recipe=target.traceable(request.recipe))
    build = build_trial_model if request.recipe.quantization is None else build_quantized
    try:
        trace = trace_step(
            lambda: build(traceable),
            traceable.recipe,
            task_named(request.workload.task),
            request.micro_batch,
            target,
            truth=request.truth,
        )
    except Exception as error:  # it becomes the sentence that says why nothing is predicted
        traceback.print_exc()
        first_line = (str(error).splitlines() or [""])[0]
        return TraceDocument(
            trace=None, refusal=f"{type(error).__name__}: {first_line}", seconds=time.perf_counter() - began
        )
    return TraceDocument(trace=trace, seconds=time.perf_counter() - began)
