"""The workload: all that the user fixed and no knob may change."""

from __future__ import annotations

import math
from dataclasses import dataclass

from autofit.errors import UserError
from autofit.job.lengths import SampleLengths
from autofit.job.method import METHODS, Adapter
from autofit.job.tasks import task_named

LARGEST_BATCH = 2**20
"""Samples; nobody trains on more at once, and the list of a batch's samples is kept in memory."""


def divisors(total: int) -> list[int]:
    """Every number that divides ``total``, ascending."""
    low = [number for number in range(1, math.isqrt(total) + 1) if total % number == 0]
    return sorted({*low, *(total // number for number in low)})


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One training job: which model, on what data shape, at which effective batch.

    ``effective_batch`` counts samples per optimizer step over all processes. ``model_digest``
    identifies the model's configuration, so that an edited local folder is another workload.
    Raises UserError where the numbers contradict each other.
    """

    model: str
    model_digest: str
    task: str
    lengths: SampleLengths
    effective_batch: int
    processes: int = 1
    method: str = "full"
    adapter: Adapter | None = None

    def __post_init__(self) -> None:
        assert self.method in METHODS and (self.adapter is None) == (self.method == "full"), "adapters have settings"
        if not 1 <= self.effective_batch <= LARGEST_BATCH:
            raise UserError(f"--effective-batch must be from 1 to {LARGEST_BATCH:,}, not {self.effective_batch:,}.")
        if self.sequence_length < 2 and task_named(self.task).reads == "tokens":
            raise UserError(f"Samples need at least 2 tokens, not {self.sequence_length}.")
        if self.effective_batch % self.processes:
            raise UserError(
                f"An effective batch of {self.effective_batch} cannot be split evenly over "
                f"{self.processes} processes; choose a multiple of {self.processes}."
            )

    @property
    def sequence_length(self) -> int:
        """Tokens of the longest sample: what has to fit, and what fixed padding pads to."""
        return self.lengths.longest

    @property
    def samples_per_process(self) -> int:
        """Samples that one process sees in one optimizer step."""
        return self.effective_batch // self.processes

    @property
    def launcher(self) -> str:
        """Start of the command that trains in as many processes, of one host."""
        return "python" if self.processes == 1 else f"torchrun --standalone --nproc-per-node {self.processes}"

    def batch_pairs(self) -> tuple[tuple[int, int], ...]:
        """Every exact (micro-batch, accumulation steps), smallest micro-batch first."""
        total = self.samples_per_process
        return tuple((size, total // size) for size in divisors(total))
