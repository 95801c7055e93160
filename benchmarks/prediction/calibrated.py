"""Part 7: predicted seconds after some trials, replayed over recorded sweeps: how far off they are where nothing ran.

Of each sweep some configurations are drawn, as if they had been tried; the others are then predicted as a search would
predict them. Nothing is run.
"""

from __future__ import annotations

import random
import statistics
from typing import Any

from autofit.predict.calibration import Calibration
from benchmarks.knob_effects import seconds_of
from benchmarks.search.record_sweep import SWEEPS
from benchmarks.search.sweep import read_sweep

TRIALS = (1, 2, 4, 8, 16)
DRAWS = 60
RECORDED = ("llama-fixed", "gpt-neox-fixed", "llama-genesis")


def run() -> dict[str, Any]:
    """A table for each sweep, and its figures: medians and ninth deciles of the absolute errors."""
    return {name: _of_sweep(name) for name in RECORDED}


def _of_sweep(name: str) -> dict[str, Any]:
    sweep = read_sweep(SWEEPS / f"{name}.json.gz")
    ratios = {}
    for config, row in sweep.by_config.items():
        seconds = seconds_of(row)
        if seconds is not None and row.prediction is not None and row.prediction.likely_seconds:
            ratios[config] = seconds / row.prediction.likely_seconds
    before = _errors([1 / ratio - 1 for ratio in ratios.values()])
    figures: dict[str, Any] = {"configurations": len(ratios), "before": before}
    print(f"{name}: {len(ratios)} configurations; before any trial {_words(before)}")
    for trials in TRIALS:
        errors = []
        for seed in range(DRAWS):
            tried = random.Random(seed).sample(list(ratios), trials)
            calibration = Calibration()
            for config in tried:
                calibration.learn(config, missing_bytes=0, time_ratio=ratios[config])
            errors += [
                (calibration.time_factor(config) or 1.0) / ratio - 1
                for config, ratio in ratios.items()
                if config not in tried
            ]
        figures[f"after {trials}"] = _errors(errors)
        print(f"  after {trials:2} trials {_words(figures[f'after {trials}'])}")
    return figures


def _errors(errors: list[float]) -> dict[str, float]:
    absolute = [abs(error) for error in errors]
    return {"median_absolute": statistics.median(absolute), "ninth_decile": statistics.quantiles(absolute, n=10)[8]}


def _words(errors: dict[str, float]) -> str:
    return f"{errors['median_absolute']:.1%} in the median, nine in ten within {errors['ninth_decile']:.1%}"
