"""``csv``: every trial of the study, one line each, for a spreadsheet or a data frame."""

from __future__ import annotations

import csv
import io

from autofit.export.exported import Exported
from autofit.study.result import Result
from autofit.study.trial import Trial

FIGURES = (
    "step_seconds",
    "samples_per_second",
    "tokens_per_second",
    "padding_share",
    "peak_allocated_bytes",
    "peak_reserved_bytes",
    "needed_bytes",
)
"""Columns that are measured, in seconds, bytes and shares; empty where a trial did not get that far."""


def serialize(result: Result) -> Exported:
    """The table: number, outcome, whether the trial ran whole, its knobs, its figures and the reason of a failure."""
    knobs = list(dict.fromkeys(name for trial in result.trials for name in trial.values))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "outcome", "whole", "round", *knobs, *FIGURES, "reason"])
    for trial in result.trials:
        knob_values = [trial.values.get(name, "") for name in knobs]
        writer.writerow(
            [trial.number, trial.outcome.value, trial.whole, trial.round, *knob_values, *_figures(trial), trial.reason]
        )
    return Exported(text=text.getvalue())


def _figures(trial: Trial) -> list[object]:
    measured = trial.measurement
    if measured is None:
        return [""] * len(FIGURES)
    return [
        measured.step_seconds,
        measured.samples_per_second,
        measured.tokens_per_second,
        measured.padding_share,
        measured.memory.peak_allocated,
        measured.memory.peak_reserved,
        measured.memory.needed,
    ]
