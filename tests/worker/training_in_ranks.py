"""A small training in several processes, of which one fails: ``python -m tests.worker.training_in_ranks JOB FAULT``.

Prints the outcome and its reason.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from autofit.study.outcome import Outcome
from autofit.study.trial import RunResult
from autofit.trial.protocol import JobFiles, JobResult, TrialResult, write_document
from autofit.worker import ranks
from autofit.worker.accelerator import Processor
from autofit.worker.job import run_trial
from autofit.worker.ranks import own_rank, run_in_ranks

STEPS, AT_STEP = 6, 2
PAUSED_SECONDS = 5.0
"""In place of ``STOPPED_SECONDS`` where a process goes on a second after it was stopped."""


def take_port() -> None:
    """Listen where the processes are about to meet, as another program may at any time."""
    with contextlib.suppress(OSError):
        socket.create_server((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))).detach()


def fail(where: str, fault: str, step: int) -> None:
    """The fault of the second process, where it is meant to have one."""
    if own_rank() != 1 or step != AT_STEP or fault != where:
        return
    if fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    if fault == "paused":
        subprocess.Popen(["sh", "-c", f"sleep 1; kill -CONT {os.getpid()}"])
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(PAUSED_SECONDS + 1)
        return
    if fault == "broken":
        raise ValueError("a fault in the training")
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def train(fault: str) -> RunResult:
    if fault == "port" and own_rank() == 0:
        take_port()
    torch.distributed.init_process_group("gloo")
    linear = torch.nn.Linear(8, 8)
    model = DistributedDataParallel(linear)
    optimizer = torch.optim.AdamW(model.parameters())
    step = 0

    class Marked(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, given: torch.Tensor) -> torch.Tensor:
            return given.clone()

        @staticmethod
        def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            fail("backward", fault, step)
            return gradient

    for step in range(STEPS):
        for where in ("killed", "stopped", "paused", "broken", "forward"):
            fail(where, fault, step)
        loss = Marked.apply(model(torch.ones(2, 8))).sum()
        loss.backward()
        fail("optimizer", fault, step)
        optimizer.step()
        optimizer.zero_grad()
        fail("all_gather", fault, step)
        parts = [torch.empty(8) for _ in range(2)]
        torch.distributed.all_gather(parts, torch.ones(8))
    return RunResult(outcome=Outcome.SLOWER, reason="it trained to its end")


def main(path: Path, fault: str) -> None:
    def run_job(own: Path) -> JobResult:
        result = run_trial(Processor(), lambda: train(fault))
        write_document(JobFiles(own).result, result)
        return result

    if fault == "paused":
        ranks.STOPPED_SECONDS = PAUSED_SECONDS
    began = time.monotonic()
    result = run_in_ranks(path, 2, run_job)
    assert isinstance(result, TrialResult)
    print(f"{result.run.outcome.value}|{result.run.reason}|{time.monotonic() - began:.1f}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
