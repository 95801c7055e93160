"""The frame of the GPU suite: what fails is said and does not end it, what is complete is kept."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autofit.units import GIB
from benchmarks.gpu.bench import Bench, attempt
from benchmarks.gpu.jobs import FULL_JOBS


def test_what_raises_is_a_row_with_its_reason_that_is_not_complete(capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> dict[str, Any]:
        raise RuntimeError("the device is on fire")

    assert attempt("a sweep", broken) == {"failed": "RuntimeError: the device is on fire", "is_complete": False}
    assert "a sweep FAILED: the device is on fire" in capsys.readouterr().out


def test_what_goes_well_is_passed_on() -> None:
    assert attempt("a sweep", lambda: {"rows": 3}) == {"rows": 3}


def bench(folder: Path, seconds: float = 60.0) -> Bench:
    deadline = time.monotonic() + seconds
    return Bench(device="cpu", is_small=True, folder=folder, deadline=deadline, memory_bytes=78 * GIB)


def test_an_item_is_measured_until_it_is_complete_and_then_kept(tmp_path: Path) -> None:
    answers = [{"is_complete": False}, {"rows": 1}, {"rows": 2}]
    rows = [bench(tmp_path).item("part", "name", lambda answer=answer: answer) for answer in answers]  # type: ignore[misc]
    assert rows[0] == {"is_complete": False}
    assert rows[1] is not None and rows[1]["rows"] == 1
    assert rows[2] is not None and rows[2]["rows"] == 1


def test_an_item_is_not_begun_when_the_time_is_up(tmp_path: Path) -> None:
    assert bench(tmp_path, seconds=-1.0).item("part", "name", lambda: {"rows": 1}) is None


def test_a_card_is_not_asked_to_be_a_larger_one(tmp_path: Path) -> None:
    job = next(job for job in FULL_JOBS if max(job.limits) == 80 * GIB)
    assert bench(tmp_path).limits_of(job) == sorted({min(limit, 74 * GIB) for limit in job.limits})


def test_a_small_card_is_asked_for_what_it_has(tmp_path: Path) -> None:
    for job in FULL_JOBS:
        limits = replace(bench(tmp_path), memory_bytes=15 * GIB).limits_of(job)
        assert limits and max(limits) == 14 * GIB
