"""Trials as rows of plain values, for a spreadsheet or a data frame."""

from __future__ import annotations

from typing import Any

from autofit.study.result import Result
from autofit.study.trial import Trial

FIGURES = (
    "step_seconds",
    "samples_per_second",
    "tokens_per_second",
    "padding_share",
    "mfu",
    "peak_allocated_bytes",
    "peak_reserved_bytes",
    "needed_bytes",
)
"""Columns that are measured, in seconds, bytes and shares; None where a trial did not get that far."""


def rows_of(result: Result) -> list[dict[str, Any]]:
    """A row for every trial, in the order they ran: number, outcome, knobs, figures and the reason of a failure."""
    knobs = list(dict.fromkeys(name for trial in result.trials for name in trial.values))
    return [
        {
            "trial": trial.number,
            "outcome": trial.outcome.value,
            "whole": trial.whole,
            "round": trial.round,
            **{name: trial.values.get(name) for name in knobs},
            **_figures(trial),
            "reason": trial.reason,
        }
        for trial in result.trials
    ]


def _figures(trial: Trial) -> dict[str, float | None]:
    measured = trial.measurement
    if measured is None:
        return dict.fromkeys(FIGURES)
    figures = (
        measured.step_seconds,
        measured.samples_per_second,
        measured.tokens_per_second,
        measured.padding_share,
        trial.mfu,
        measured.memory.peak_allocated,
        measured.memory.peak_reserved,
        measured.memory.needed,
    )
    return dict(zip(FIGURES, figures, strict=True))
