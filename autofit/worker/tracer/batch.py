"""Many traces in one job: in several processes side by side, each document written as soon as it is made."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch

from autofit.job.tasks import task_named
from autofit.predict.trace_request import TraceDocument, TraceRequest
from autofit.trial.protocol import TraceJob, TracesResult, write_document
from autofit.worker.build import build_trial_model
from autofit.worker.tracer.step import trace_step
from autofit.worker.tracer.target import Target


def trace_all(job: TraceJob) -> TracesResult:
    """Write every request's document. A process that dies (a C++ terminate, say) leaves the one it was at undone."""
    number = min(job.processes, len(job.requests)) if sys.platform == "linux" else 1
    children = []
    with _Queue(len(job.requests)) as queue:
        for _ in range(1, number):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    _trace_some(job.requests, queue)
                    code = 0
                finally:
                    os._exit(code)
            children.append(child)
        _trace_some(job.requests, queue)
    for child in children:
        os.waitpid(child, 0)
    return TracesResult()


class _Queue:
    """Numbers from 0 on, each given once to whichever process asks: forked processes share a file's position."""

    def __init__(self, length: int) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed as this is left
        self._file.write(b"".join(number.to_bytes(4, "big") for number in range(length)))
        self._file.seek(0)

    def __iter__(self) -> Iterator[int]:
        while taken := self._file.read(4):
            yield int.from_bytes(taken, "big")

    def __enter__(self) -> _Queue:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()


def _trace_some(requests: tuple[TraceRequest, ...], queue: _Queue) -> None:
    torch.set_num_threads(1)
    # The Trainer collects garbage as it starts; what was imported need not be looked through for that.
    gc.freeze()
    for number in queue:
        write_document(Path(requests[number].path), trace_request(requests[number]))


def trace_request(request: TraceRequest) -> TraceDocument:
    """The document of one request; whatever a model raises becomes its refusal."""
    began = time.perf_counter()
    target = Target(kind=request.target, compute_capability=request.compute_capability)
    traceable = msgspec.structs.replace(request, recipe=target.traceable(request.recipe))
    try:
        build = _builder_for(request)
        trace = trace_step(
            lambda: build(traceable),
            traceable.recipe,
            task_named(request.workload.task),
            request.micro_batch,
            target,
            truth=request.truth,
            micro_steps=request.micro_steps,
        )
    except Exception as error:  # it becomes the sentence that says why nothing is predicted
        traceback.print_exc()
        first_line = (str(error).splitlines() or [""])[0]
        return TraceDocument(
            trace=None, refusal=f"{type(error).__name__}: {first_line}", seconds=time.perf_counter() - began
        )
    return TraceDocument(trace=trace, seconds=time.perf_counter() - began)


def _builder_for(request: TraceRequest) -> Callable[[TraceRequest], Any]:
    if request.recipe.quantization is None:
        return build_trial_model
    # Imports bitsandbytes, and much of inductor with it, which takes a second.
    from autofit.worker.tracer.quantized import build_quantized

    return build_quantized
