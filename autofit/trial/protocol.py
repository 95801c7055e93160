"""The documents that pass between the search and its workers, as versioned JSON files.

A job is written by the parent; a result is written by the worker under a temporary name and renamed
into place, so that half a result is never read. Between them the worker appends its phases to a small
file, which is how the parent's watchdog knows what a silent worker is doing.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from autofit.device.device import Device, Libraries
from autofit.device.rates import Rates
from autofit.job.lengths import SampleLengths
from autofit.job.models import ModelSource
from autofit.job.program import Program, ProgramSamples
from autofit.job.situation import ModelFacts
from autofit.job.workload import Workload
from autofit.knobs.recipe import Recipe
from autofit.predict.micro_batches import MicroBatches
from autofit.predict.trace_request import TraceRequest
from autofit.study.outcome import Outcome
from autofit.study.trial import RunResult

FORMAT = 1

SLOWER_FACTOR = 3.0
"""A step this many times slower than the best is surely slower: noise moves steps by a few percent, and all warm steps
of a trial would have to be hit at once by something that takes two thirds of the machine."""

Document = TypeVar("Document")


class MeasuringPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Length of a measurement. The defaults are the protocol's; tests and benchmarks shorten or lengthen them.

    Warm-up runs from ``warmup_steps`` optimizer steps until two in a row agree within
    ``warmup_agreement``, at most ``warmup_limit``. Timed steps run until the confidence interval is
    within ``precision`` or ``patience_seconds`` are spent, from ``least_steps`` to ``most_steps``, and not
    before ``least_micro_batches`` were run. ``whole`` runs effective batches of the frozen list with all
    their micro-steps; otherwise a few shapes are timed in shortened steps.

    ``spare_share`` of the memory that a trial may use is kept from it, too: what gets through has that much to spare.

    ``slower_than_seconds`` is the best step so far. What is slower by more than twice its own 95 % interval is
    measured no further; it counts as measured, with that uncertainty. What takes ``SLOWER_FACTOR`` times as long
    already in its warm-up is given up and counts as slower. What may be as fast is measured more precisely.
    """

    whole: bool = False
    warmup_steps: int = 2
    warmup_limit: int = 8
    warmup_agreement: float = 0.1
    least_steps: int = 3
    most_steps: int = 60
    precision: float = 0.01
    patience_seconds: float = 5.0
    slower_than_seconds: float | None = None
    least_micro_batches: int = 0
    spare_share: float = 0.0
    seed: int = 0


class MemoryPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The enforced limit. ``own_bytes`` is all that a trial may use: its context, paged state and cap."""

    own_bytes: int


class TrialJob(msgspec.Struct, frozen=True, kw_only=True, tag="trial"):
    """Run one recipe. ``device`` is what the worker sees (``cuda:0``, the only one visible to it).

    ``expected_paged_bytes`` is kept free of the cap for optimizer state that the allocator does not see.
    """

    model: ModelSource
    workload: Workload
    recipe: Recipe
    device: str
    memory: MemoryPlan
    plan: MeasuringPlan
    expected_paged_bytes: int = 0
    trust_remote_code: bool = False
    format: int = FORMAT

    @property
    def environment(self) -> dict[str, str]:
        """Variables that must be there before torch is imported."""
        return self.recipe.environment


class ProbeJob(msgspec.Struct, frozen=True, kw_only=True, tag="probe"):
    """Say what the device, the libraries and the model are."""

    model: ModelSource
    workload: Workload
    device: str
    trust_remote_code: bool = False
    format: int = FORMAT

    @property
    def environment(self) -> dict[str, str]:
        """Variables that must be there before torch is imported."""
        return {}


class StepJob(msgspec.Struct, frozen=True, kw_only=True, tag="step"):
    """Train one effective batch of the frozen list with one recipe, dropout off, and say loss and gradient norm.

    The same seed gives the same weights and samples to every recipe of a workload.
    """

    model: ModelSource
    workload: Workload
    recipe: Recipe
    device: str
    seed: int = 0
    trust_remote_code: bool = False
    format: int = FORMAT

    @property
    def environment(self) -> dict[str, str]:
        """Variables that must be there before torch is imported."""
        return self.recipe.environment


class TraceJob(msgspec.Struct, frozen=True, kw_only=True, tag="traces"):
    """Trace many steps, in several processes side by side."""

    requests: tuple[TraceRequest, ...]
    processes: int = 1
    format: int = FORMAT

    @property
    def model(self) -> ModelSource:
        """The model of all requests."""
        return self.requests[0].model

    @property
    def environment(self) -> dict[str, str]:
        """Variables that must be there before torch is imported."""
        return {}


class BatchesJob(msgspec.Struct, frozen=True, kw_only=True, tag="batches"):
    """Say which micro-batches layouts make of a workload's samples."""

    model: ModelSource
    workload: Workload
    layouts: tuple[Recipe, ...]
    seed: int = 0
    format: int = FORMAT

    @property
    def environment(self) -> dict[str, str]:
        """Variables that must be there before torch is imported."""
        return {}


class RatesJob(msgspec.Struct, frozen=True, kw_only=True, tag="rates"):
    """Measure what the device reaches: matrix products in each precision, a copy, the launch of an operator."""

    model: ModelSource
    device: str
    format: int = FORMAT

    @property
    def environment(self) -> dict[str, str]:
        """Variables that must be there before torch is imported."""
        return {}


class ProgramTrialJob(msgspec.Struct, frozen=True, kw_only=True, tag="program-trial"):
    """Train some steps of a user's own program with what the recipe changes in it; run inside the program.

    ``in_use_before`` are bytes of the device that were in use before the program began; None where nobody says.
    """

    recipe: Recipe
    samples: ProgramSamples
    device: str
    memory: MemoryPlan
    plan: MeasuringPlan
    expected_paged_bytes: int = 0
    in_use_before: int | None = None
    format: int = FORMAT

    @property
    def environment(self) -> dict[str, str]:
        """Variables that must be there before torch is imported."""
        return self.recipe.environment


class ProgramRunJob(msgspec.Struct, frozen=True, kw_only=True, tag="program-run"):
    """Train a user's own program to its end, with what a recipe changes in it, surviving out-of-memory.

    ``recipe`` is None where nothing is changed. ``step_seconds`` and ``memory_bytes`` are what was measured of it.
    """

    recipe: Recipe | None = None
    step_seconds: float | None = None
    memory_bytes: int | None = None
    format: int = FORMAT

    @property
    def environment(self) -> dict[str, str]:
        """Variables that must be there before torch is imported."""
        return {} if self.recipe is None else self.recipe.environment


class ProgramTraceJob(msgspec.Struct, frozen=True, kw_only=True, tag="program-traces"):
    """Trace steps of a user's own program, each in a process of its own, up to ``processes`` at a time."""

    requests: tuple[TraceRequest, ...]
    samples: ProgramSamples
    processes: int = 1
    format: int = FORMAT

    @property
    def environment(self) -> dict[str, str]:
        """Variables that must be there before torch is imported."""
        return {}


class ProgramBatchesJob(msgspec.Struct, frozen=True, kw_only=True, tag="program-batches"):
    """Say which micro-batches a program's own collator makes at the batch sizes of some layouts."""

    layouts: tuple[Recipe, ...]
    samples: ProgramSamples
    format: int = FORMAT

    @property
    def environment(self) -> dict[str, str]:
        """Variables that must be there before torch is imported."""
        return {}


class ProgramFactsJob(msgspec.Struct, frozen=True, kw_only=True, tag="program-facts"):
    """Say what the program is that is about to train: its model, settings, samples and device."""

    command: tuple[str, ...]
    device: str
    format: int = FORMAT

    @property
    def environment(self) -> dict[str, str]:
        """Variables that must be there before torch is imported."""
        return {}


class TrialResult(msgspec.Struct, frozen=True, kw_only=True, tag="trial"):
    """Result of a trial that the worker could finish or whose failure it could catch."""

    run: RunResult
    format: int = FORMAT


class ProbeResult(msgspec.Struct, frozen=True, kw_only=True, tag="probe"):
    """Facts that a worker found. ``refusal`` is a sentence where the model or device cannot be used at all."""

    refusal: str | None = None
    device: Device | None = None
    libraries: Libraries | None = None
    model: ModelFacts | None = None
    task: str | None = None
    format: int = FORMAT


class StepResult(msgspec.Struct, frozen=True, kw_only=True, tag="step"):
    """Loss of the effective batch and the norm of all its gradients, unclipped. ``outcome`` is ``ok`` with both."""

    outcome: Outcome
    reason: str = ""
    loss: float | None = None
    gradient_norm: float | None = None
    format: int = FORMAT


class TracesResult(msgspec.Struct, frozen=True, kw_only=True, tag="traces"):
    """Every request's document lies at its path."""

    format: int = FORMAT


class BatchesResult(msgspec.Struct, frozen=True, kw_only=True, tag="batches"):
    """The micro-batches of each layout, in order."""

    batches: tuple[MicroBatches, ...]
    format: int = FORMAT


class RatesResult(msgspec.Struct, frozen=True, kw_only=True, tag="rates"):
    """Rates that the device reaches."""

    rates: Rates
    format: int = FORMAT


class ProgramFacts(msgspec.Struct, frozen=True, kw_only=True, tag="program-facts"):
    """Facts of a program. ``refusal`` is a sentence where it cannot be searched.

    ``lengths`` count the tokens of its samples as its collator makes them (1 where samples have no length);
    ``looked_at`` is how many samples were looked at, of ``num_samples`` (None of a stream).
    """

    refusal: str | None = None
    program: Program | None = None
    device: Device | None = None
    libraries: Libraries | None = None
    model: ModelFacts | None = None
    samples: ProgramSamples | None = None
    lengths: SampleLengths | None = None
    num_samples: int | None = None
    looked_at: int = 0
    effective_batch: int = 1
    processes: int = 1
    task: str = "causal-lm"
    format: int = FORMAT


ProgramJob = ProgramTrialJob | ProgramFactsJob | ProgramRunJob | ProgramTraceJob | ProgramBatchesJob
Job = TrialJob | ProbeJob | StepJob | TraceJob | BatchesJob | RatesJob | ProgramJob
JobResult = TrialResult | ProbeResult | StepResult | TracesResult | BatchesResult | RatesResult | ProgramFacts

Phase = Literal["start", "build", "train", "first_micro_step", "first_step", "warm", "evaluate", "done"]


class JobFiles:
    """The files of one job: the same stem, four endings. ``scratch`` is a folder for temporary files.

    It lies among the system's, found again by the job's path: sockets are made in it (a loader's workers hand on
    tensors through them), whose paths have at most 107 bytes.
    """

    def __init__(self, job_path: Path) -> None:
        self.job = job_path
        self.result = job_path.with_suffix(".result.json")
        self.phases = job_path.with_suffix(".phases")
        self.log = job_path.with_suffix(".log")
        digest = hashlib.sha256(str(job_path.absolute()).encode()).hexdigest()[:16]
        self.scratch = Path(tempfile.gettempdir()) / f"autofit-{digest}"


def write_document(path: Path, document: Any) -> None:
    """Write ``document`` as JSON under a temporary name and rename it into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(msgspec.json.encode(document))
    temporary.replace(path)


def read_job(path: Path) -> Job:
    """Raises msgspec.ValidationError for anything that is not a job of this format."""
    job: Job = msgspec.json.decode(path.read_bytes(), type=Job)
    return job


def read_document(path: Path, kind: type[Document]) -> Document | None:
    """Document that ``write_document`` wrote; None where there is nothing, or something else."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError):
        return None


def read_result(path: Path) -> JobResult | None:
    """The result, or None where there is none or it is no result of this format."""
    result: JobResult | None = read_document(path, JobResult)  # type: ignore[arg-type]  # a union is no type to mypy
    return result if result is not None and result.format == FORMAT else None


def note_phase(path: Path, phase: Phase, seconds: float) -> None:
    """Append a phase and the moment it began (``time.monotonic``)."""
    with path.open("a", encoding="ascii") as file:
        file.write(f"{phase} {seconds:.6f}\n")


def read_phases(path: Path) -> dict[str, float]:
    """Phase -> when it began. A line that is still being written is left out."""
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return {}
    phases = {}
    for line in text.splitlines(keepends=True):
        words = line.split()
        if line.endswith("\n") and len(words) == 2:
            try:
                phases[words[0]] = float(words[1])
            except ValueError:
                continue
    return phases
