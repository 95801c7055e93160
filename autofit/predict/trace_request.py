"""The request of a trace and its answer: the documents that traces are kept in on the disk."""

from __future__ import annotations

import hashlib

import msgspec

from autofit.job.models import ModelSource
from autofit.job.workload import Workload
from autofit.knobs.recipe import Recipe
from autofit.predict.micro_batches import FORMAT_OF_SEVERAL
from autofit.predict.trace import StepTrace

FORMAT = 6
"""Counts up where a trace's meaning or making changes, so that older ones on the disk are not taken for new."""


def has_flash_attention(compute_capability: tuple[int, int] | None) -> bool:
    """True if torch's flash attention runs on a GPU: what a trace depends on of it. None is a GPU of today."""
    return compute_capability is None or compute_capability >= (8, 0)


class TraceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Trace one optimizer step of one micro-batch of a recipe, and write a TraceDocument to ``path``.

    ``micro_batch`` holds the lengths of its samples. ``truth`` answers what HF asks of masks and positions: whether
    nothing is padding and every row is one document. ``target`` is the kind of device that it is traced for, whose
    compute capability decides which kernels torch would choose.
    """

    model: ModelSource
    workload: Workload
    recipe: Recipe
    micro_batch: tuple[int, ...]
    path: str
    truth: bool = True
    micro_steps: int = 1
    target: str = "cpu"
    compute_capability: tuple[int, int] = (8, 0)
    device: str = "cpu"
    trust_remote_code: bool = False

    def key(self, versions: dict[str, str]) -> str:
        """The same for the same trace with the same versions, whatever the workload around it."""
        workload = self.workload
        parts = (
            FORMAT,
            self.model.digest,
            self.model.name if self.model.needs_remote_code else "",
            workload.task,
            workload.method,
            workload.adapter,
            self.recipe,
            self.micro_batch,
            self.truth,
            self.micro_steps,
            self.recipe.processes > 1 and FORMAT_OF_SEVERAL,
            self.target,
            self.target != "cpu" and has_flash_attention(self.compute_capability),
            sorted(versions.items()),
        )
        return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()[:24]


class TraceDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A trace, or the sentence that says why there is none. ``seconds`` is what it took."""

    trace: StepTrace | None
    refusal: str = ""
    seconds: float = 0.0
    format: int = FORMAT
