"""Predictions against a real GPU: what was said to be allocated, and whether what was said to fit does."""

from __future__ import annotations

from pathlib import Path

import pytest

import autofit
from autofit.study.outcome import Outcome
from autofit.study.prediction import Verdict

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_allocated_bytes_are_within_three_percent_of_what_was_predicted(tiny_model: Path, attention: str) -> None:
    result = autofit.search(
        "HuggingFaceTB/SmolLM2-135M",
        effective_batch=16,
        seq_len=512,
        max_trials=4,
        fix={"attention": attention, "compile": "off"},
    )
    compared = 0
    for trial in result.trials:
        if trial.prediction is None or trial.measurement is None:
            continue
        predicted = trial.prediction.live_bytes + trial.prediction.bytes_by_category["workspaces"]
        assert predicted == pytest.approx(trial.measurement.memory.peak_allocated, rel=0.03), trial.config
        compared += 1
    assert compared


def test_nothing_that_is_said_to_fit_runs_out_of_memory() -> None:
    result = autofit.search(
        "HuggingFaceTB/SmolLM2-135M", effective_batch=64, seq_len=1024, max_trials=10, memory_limit="8GiB"
    )
    for trial in result.trials:
        if trial.prediction is not None and trial.prediction.verdict is Verdict.FITS:
            assert trial.outcome is not Outcome.OOM, trial.config
