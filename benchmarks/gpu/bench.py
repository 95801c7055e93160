"""The frame of the parts: the device, where results lie, when the time of this call is up."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autofit.device import nvml
from autofit.units import GIB
from benchmarks.gpu.jobs import Job
from benchmarks.record import read_results, write_results

USABLE = 0.95


@dataclass(frozen=True, kw_only=True)
class Bench:
    """One call. ``is_small`` asks for the form that a CPU goes through in minutes; ``deadline`` is a moment of
    ``time.monotonic``, ``memory_bytes`` what the device has."""

    device: str
    is_small: bool
    folder: Path
    deadline: float
    memory_bytes: int

    @property
    def on_gpu(self) -> bool:
        """True if a GPU is measured."""
        return self.device != "cpu"

    @property
    def seconds_left(self) -> float:
        """Until the deadline."""
        return self.deadline - time.monotonic()

    def limits_of(self, job: Job) -> list[int]:
        """The sizes of card of a job, in bytes; in place of one that this device cannot be, the largest it can.

        That is in whole GiB, and leaves what the driver counts and torch cannot have.
        """
        largest = max(1, int(USABLE * self.memory_bytes / GIB)) * GIB
        return sorted({min(limit, largest) for limit in job.limits})

    def item(self, part: str, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """One item of a part: as an earlier call completed it, or measured now; None where no time is left for it.

        ``measure`` says with ``is_complete`` where a further call has to go on.
        """
        kept = self.scratch(part) / f"{name}.json"
        if kept.exists():
            return read_results(kept)
        if self.seconds_left <= 0:
            return None
        row = {"is_complete": True, **attempt(name, measure)}
        if row["is_complete"]:
            write_results(f"gpu_{part}", row, kept)
        return row

    def scratch(self, name: str) -> Path:
        """A folder of a part's own, which the next call finds as it was left."""
        path = self.folder / "work" / name
        path.mkdir(parents=True, exist_ok=True)
        return path


@dataclass(frozen=True, kw_only=True)
class PartResult:
    """``figures`` is what is known so far; ``is_complete`` whether a further call would add nothing."""

    figures: dict[str, Any]
    is_complete: bool


def attempt(what: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The answer of ``measure``; where it raises, the reason, so that the rest of a part still runs.

    What failed is not complete: the next call tries it again.
    """
    try:
        return measure()
    except Exception as error:  # whatever a library or a device does
        traceback.print_exc()
        print(f"{what} FAILED: {error}", flush=True)
        return {"failed": f"{type(error).__name__}: {error}", "is_complete": False}


def find_device(asked: str) -> str:
    """``auto`` is the first GPU, or the CPU where there is none."""
    if asked != "auto":
        return asked
    return "cuda:0" if nvml.visible_indices() else "cpu"
