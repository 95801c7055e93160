"""The subject of a study: model, workload, device and versions; and the folder in which autofit keeps studies."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import msgspec

from autofit.device.device import Device
from autofit.job.models import ModelSource
from autofit.job.situation import Limits, Situation
from autofit.job.workload import Workload

MOST_LETTERS = 80
FORMAT = 3
"""Raised where stored documents change shape: a study of another format is of another autofit."""


class StudyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Subject of a study. ``situation`` is there once a worker has looked at the device.

    ``environment`` are the variables that were set and change what is measured, such as OMP_NUM_THREADS.
    """

    model: ModelSource
    workload: Workload
    device: Device
    versions: dict[str, str]
    limits: Limits
    trust_remote_code: bool = False
    seed: int = 0
    environment: dict[str, str] = {}
    situation: Situation | None = None
    format: int = FORMAT

    @property
    def identity(self) -> str:
        """The same for the same workload on the same device with the same versions and limits."""
        parts = (
            self.workload,
            self.device.kind,
            self.device.name,
            self.device.memory_bytes,
            self.versions,
            self.limits,
            self.seed,
            self.environment,
            self.format,
        )
        return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()[:8]

    @property
    def default_name(self) -> str:
        """Readable, and unique by its identity."""
        workload = self.workload
        # No name needs quoting in a shell.
        model = re.sub(r"[^A-Za-z0-9._-]+", "_", workload.model.rstrip("/").split("/")[-1]).lstrip("-")[:MOST_LETTERS]
        method = "" if workload.method == "full" else f"-{workload.method}"
        return f"{model}{method}-b{workload.effective_batch}-s{workload.sequence_length}-{self.identity}"


def home() -> Path:
    """Folder of studies and logs: ``AUTOFIT_HOME``, else ``~/.autofit``."""
    return Path(os.environ.get("AUTOFIT_HOME") or Path.home() / ".autofit")
