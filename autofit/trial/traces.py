"""Traces and the shapes of micro-batches: found on the disk, or made by a worker and kept there."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from autofit.job.models import ModelSource
from autofit.job.program import ProgramSamples
from autofit.job.workload import Workload
from autofit.knobs.recipe import Recipe
from autofit.predict.micro_batches import FORMAT as BATCHES_FORMAT
from autofit.predict.micro_batches import MicroBatches, key_of
from autofit.predict.trace_request import FORMAT, TraceDocument, TraceRequest
from autofit.trial.launcher import Launcher, LaunchError
from autofit.trial.protocol import (
    BatchesJob,
    BatchesResult,
    JobFiles,
    ProgramBatchesJob,
    ProgramTraceJob,
    TraceJob,
    read_document,
    write_document,
)
from autofit.trial.workshop import Workshop

MOST_SECONDS = 600.0
MOST_PROCESSES = 8
MOST_OF_THE_TIME = 1 / 3
LOST = "its trace was not made in time, or the process that traced it died"


class TraceKeeper:
    """Answers what predictions are made of. ``workshop`` is asked for when a worker has to find it, and not before.

    ``progress`` hears how many of how many are done while a worker is at it. Traces are cached by everything they
    depend on: the model's configuration, the settings, the shape, the versions of the libraries. ``samples`` are those
    of the user's own program that is traced.
    """

    def __init__(
        self,
        folder: Path,
        versions: dict[str, str],
        workshop: Callable[[], Workshop],
        progress: Callable[[int, int], None] = lambda done, total: None,
        samples: ProgramSamples | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._versions = versions
        self._workshop = workshop
        self._progress = progress
        self._samples = samples
        self._documents: dict[Path, TraceDocument] = {}
        self.made_any = False
        self._gave_up = False

    def micro_batches(
        self, model: ModelSource, workload: Workload, layouts: Sequence[Recipe]
    ) -> list[MicroBatches] | None:
        """Micro-batches that each layout makes of the workload's samples, in order; None without an answer."""
        paths = [self._folder / f"{key_of(layout, model, workload, self._versions)}.json" for layout in layouts]
        known = [_read_batches(path) for path in paths]
        found = [batches for batches in known if batches is not None]
        if len(found) == len(layouts):
            return found
        if self._gave_up:
            return None
        job, workshop = self._batches_job(model, workload, tuple(layouts)), self._workshop()
        answer, _ = workshop.ask(job, "batches", _most_seconds(workshop))
        if not isinstance(answer, BatchesResult):
            return None
        for path, batches in zip(paths, answer.batches, strict=True):
            write_document(path, batches)
        return list(answer.batches)

    def traces(self, requests: Sequence[TraceRequest]) -> list[TraceDocument]:
        """A document for each request, in order."""
        paths = [self._folder / f"{request.key(self._versions)}.json" for request in requests]
        missing = {
            path: msgspec.structs.replace(request, path=str(path))
            for path, request in zip(paths, requests, strict=True)
            if not self._has(path)
        }
        if missing and not self._gave_up:
            self._make(missing)
        return [self._documents.get(path) or TraceDocument(trace=None, refusal=LOST) for path in paths]

    def _trace_job(self, requests: tuple[TraceRequest, ...], processes: int) -> TraceJob | ProgramTraceJob:
        if self._samples is None:
            return TraceJob(requests=requests, processes=processes)
        return ProgramTraceJob(requests=requests, samples=self._samples, processes=processes)

    def _batches_job(
        self, model: ModelSource, workload: Workload, layouts: tuple[Recipe, ...]
    ) -> BatchesJob | ProgramBatchesJob:
        if self._samples is None:
            return BatchesJob(model=model, workload=workload, layouts=layouts)
        return ProgramBatchesJob(layouts=layouts, samples=self._samples)

    def _has(self, path: Path) -> bool:
        """True if a trace is known. A refusal that an earlier process left is not taken for one: it may have passed."""
        if path not in self._documents:
            document = _read(path)
            if document is not None and document.trace is not None:
                self._documents[path] = document
        return path in self._documents

    def _make(self, missing: dict[Path, TraceRequest]) -> None:
        self.made_any = True
        workshop = self._workshop()
        job = self._trace_job(tuple(missing.values()), min(MOST_PROCESSES, os.cpu_count() or 1))
        files = JobFiles(workshop.folder / "traces.json")
        files.result.unlink(missing_ok=True)
        write_document(files.job, job)
        self._progress(0, len(missing))
        for path in missing:
            path.unlink(missing_ok=True)
        launcher = workshop.launcher(job.environment)
        while True:
            try:
                self._wait(launcher, files, missing, workshop)
                break
            except LaunchError as error:
                launcher = workshop.replacement(str(error))
        for path in missing:
            document = _read(path)
            if document is not None:
                self._documents[path] = document

    def _wait(self, launcher: Launcher, files: JobFiles, missing: dict[Path, TraceRequest], workshop: Workshop) -> None:
        launcher.start(files.job)
        began = time.monotonic()
        most_seconds = _most_seconds(workshop)
        done = 0
        while launcher.wait(0.1) is None:
            now = sum(path.exists() for path in missing)
            if now > done:
                done = now
                self._progress(done, len(missing))
            if time.monotonic() - began > most_seconds:
                launcher.kill()
                launcher.wait(5)
                # What hangs once hangs again: the rest of the time is for measuring.
                self._gave_up = True
                return
        if done < len(missing):
            self._progress(sum(path.exists() for path in missing), len(missing))


def _most_seconds(workshop: Workshop) -> float:
    """Seconds to wait: before a deadline, what hangs when it is predicted must leave time to measure it instead."""
    return min(MOST_SECONDS, MOST_OF_THE_TIME * workshop.seconds_left(math.inf))


def _read_batches(path: Path) -> MicroBatches | None:
    batches = read_document(path, MicroBatches)
    return batches if batches is not None and batches.format == BATCHES_FORMAT else None


def _read(path: Path) -> TraceDocument | None:
    document = read_document(path, TraceDocument)
    return document if document is not None and document.format == FORMAT else None
