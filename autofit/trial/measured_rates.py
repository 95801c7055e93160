"""The rates of the present device: measured once by a worker, and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from autofit.device.device import Device
from autofit.device.rates import Rates
from autofit.job.record import StudyRecord
from autofit.trial.protocol import RatesJob, RatesResult, read_document, write_document
from autofit.trial.workshop import Workshop

FORMAT = 1
"""Counts up where the rates are measured in another way."""
MOST_SECONDS = 60.0


def measured_rates(folder: Path, record: StudyRecord, device: Device, workshop: Callable[[], Workshop]) -> Rates | None:
    """Rates that the device reaches in plain work; None where the worker could not tell."""
    parts = (FORMAT, device.kind, device.name, device.index, record.versions.get("torch"))
    path = folder / f"rates-{hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:16]}.json"
    known = read_document(path, Rates)
    if known is not None:
        return known
    place = workshop()
    answer, _ = place.ask(RatesJob(model=record.model, device=place.torch_device), "rates", MOST_SECONDS)
    if not isinstance(answer, RatesResult):
        return None
    folder.mkdir(parents=True, exist_ok=True)
    write_document(path, answer.rates)
    return answer.rates
