"""Traces: found on the disk, or made by a worker and kept there."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from autofit.predict.request import FORMAT, TraceDocument, TraceRequest
from autofit.trial.launcher import Launcher, LaunchError
from autofit.trial.protocol import JobFiles, TraceJob, read_document, write_document
from autofit.trial.workshop import Workshop

MOST_SECONDS = 600.0
MOST_PROCESSES = 8
MOST_OF_THE_TIME = 1 / 3
LOST = "its trace was not made in time, or the process that traced it died"


class TraceKeeper:
    """Answers requests for traces. ``workshop`` is asked for when something has to be traced, and not before.

    ``progress`` hears how many of how many are done while a worker is at it. Traces are cached by everything they
    depend on: the model's configuration, the settings, the shape, the versions of the libraries.
    """

    def __init__(
        self,
        folder: Path,
        versions: dict[str, str],
        workshop: Callable[[], Workshop],
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._versions = versions
        self._workshop = workshop
        self._progress = progress
        self._documents: dict[Path, TraceDocument] = {}
        self.made_any = False
        self._gave_up = False

    def __call__(self, requests: Sequence[TraceRequest]) -> list[TraceDocument]:
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

    def _has(self, path: Path) -> bool:
        """Whether a trace is known. A refusal that an earlier process left is not taken for one: it may have passed."""
        if path not in self._documents:
            document = _read(path)
            if document is not None and document.trace is not None:
                self._documents[path] = document
        return path in self._documents

    def _make(self, missing: dict[Path, TraceRequest]) -> None:
        self.made_any = True
        workshop = self._workshop()
        job = TraceJob(requests=tuple(missing.values()), processes=min(MOST_PROCESSES, os.cpu_count() or 1))
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
        # Where there is a deadline, what hangs when it is traced must leave time to measure it instead.
        most_seconds = min(MOST_SECONDS, MOST_OF_THE_TIME * workshop.seconds_left(math.inf))
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


def _read(path: Path) -> TraceDocument | None:
    document = read_document(path, TraceDocument)
    return document if document is not None and document.format == FORMAT else None
