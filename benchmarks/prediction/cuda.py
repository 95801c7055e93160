"""Part 2: what a real GPU allocated, reserved and took, against what was predicted before anything was measured.

It reads full sweeps that were recorded on a GPU (``python -m benchmarks.gpu --parts sweeps``): every row of one holds
its prediction beside its answers. Calibrated figures come from the same rows, a few of which are taken as trials.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autofit.knobs.train_config import TrainConfig
from autofit.predict.calibration import Calibration
from autofit.study.measurement import Memory
from autofit.study.prediction import Prediction
from benchmarks.prediction.ranks import rank_correlation
from benchmarks.record import RESULTS
from benchmarks.search.sweep import Sweep, read_sweep

TO_CALIBRATE = 3
"""Configurations, drawn at random, that count as trials before the others are predicted."""
DRAWS = 20
NOT_ALLOCATED = ("allocator_slack", "context")


@dataclass(frozen=True)
class Pair:
    """One configuration of a sweep that ran: predicted and measured."""

    config: TrainConfig
    prediction: Prediction
    memory: Memory
    seconds: float


def run() -> dict[str, Any]:
    """Compare every sweep that was recorded on a GPU."""
    sweeps = [sweep for folder in sorted(RESULTS.glob("gpu-*/sweeps")) for sweep in whole_sweeps(folder)]
    if not sweeps:
        print("No sweep was recorded on a GPU: this part is not yet measured on CUDA.")
    return of_sweeps(sweeps)


def whole_sweeps(folder: Path) -> list[Sweep]:
    """The sweeps of a folder that were not derived for a smaller card: each configuration once."""
    sweeps = [read_sweep(path) for path in sorted(folder.glob("*.json.gz"))]
    return [sweep for sweep in sweeps if sweep.situation.limits.memory_bytes == sweep.situation.device.memory_bytes]


def of_sweeps(sweeps: Iterable[Sweep]) -> dict[str, Any]:
    """Errors of each sweep, as predicted and calibrated."""
    figures = {}
    for sweep in sweeps:
        pairs = _pairs(sweep)
        if len(pairs) < TO_CALIBRATE + 2:
            continue
        figures[sweep.name] = {
            "configurations": len(pairs),
            "allocated": _errors([_allocated(pair) / pair.memory.peak_allocated - 1 for pair in pairs]),
            "reserved": _errors([_reserved(pair) / pair.memory.peak_reserved - 1 for pair in pairs]),
            "total": _errors([pair.prediction.total_bytes / pair.memory.needed - 1 for pair in pairs]),
            "context_bytes": [pairs[0].prediction.bytes_by_category["context"], pairs[0].memory.context],
            "seconds": _errors(_of_seconds(pairs)),
            "seconds_rank_correlation": rank_correlation(
                [pair.prediction.likely_seconds or 0.0 for pair in pairs], [pair.seconds for pair in pairs]
            ),
            "calibrated": _calibrated(pairs),
            "worst_allocated": _worst(pairs),
        }
        for name, value in figures[sweep.name].items():
            print(f"{sweep.name:34} {name:26} {value}", flush=True)
    return figures


def _pairs(sweep: Sweep) -> list[Pair]:
    pairs = []
    for row in sweep.rows:
        ran = [answer for answer in row.answers if answer.memory is not None and answer.samples]
        if row.prediction is None or not ran:
            continue
        memory = ran[0].memory
        assert memory is not None
        for other in ran[1:]:
            assert other.memory is not None
            memory = memory.at_least(other.memory)
        seconds = statistics.fmean(statistics.median(answer.samples) for answer in ran)
        pairs.append(Pair(row.config, row.prediction, memory, seconds))
    return pairs


def _allocated(pair: Pair) -> int:
    """Predicted bytes that the allocator handed out at the peak: all but its own losses and the context."""
    return sum(size for name, size in pair.prediction.bytes_by_category.items() if name not in NOT_ALLOCATED)


def _reserved(pair: Pair) -> int:
    return _allocated(pair) + pair.prediction.bytes_by_category.get("allocator_slack", 0)


def _of_seconds(pairs: Sequence[Pair]) -> list[float]:
    return [pair.prediction.likely_seconds / pair.seconds - 1 for pair in pairs if pair.prediction.likely_seconds]


def _errors(errors: Sequence[float]) -> dict[str, float]:
    if not errors:
        return {}
    return {
        "mean_absolute": statistics.fmean(map(abs, errors)),
        "median": statistics.median(errors),
        "most_under": min(0.0, *errors),
        "most_over": max(0.0, *errors),
    }


def _calibrated(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Errors on the configurations that were not drawn, over several draws."""
    totals, seconds = [], []
    for seed in range(DRAWS):
        shuffled = list(pairs)
        random.Random(seed).shuffle(shuffled)
        calibration = Calibration()
        for pair in shuffled[:TO_CALIBRATE]:
            likely = pair.prediction.likely_seconds
            calibration.learn(
                pair.config,
                missing_bytes=pair.memory.needed - pair.memory.paged_state - pair.prediction.total_bytes,
                time_ratio=None if not likely else pair.seconds / likely,
            )
        for pair in shuffled[TO_CALIBRATE:]:
            predicted = pair.prediction.total_bytes + calibration.extra_bytes(pair.config)
            totals.append(predicted / (pair.memory.needed - pair.memory.paged_state) - 1)
            factor = calibration.time_factor(pair.config)
            if pair.prediction.likely_seconds and factor:
                seconds.append(pair.prediction.likely_seconds * factor / pair.seconds - 1)
    return {"trials": TO_CALIBRATE, "draws": DRAWS, "total": _errors(totals), "seconds": _errors(seconds)}


def _worst(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Rows to look at first for missing bytes."""
    ordered = sorted(pairs, key=lambda pair: -abs(_allocated(pair) / pair.memory.peak_allocated - 1))
    return [
        {
            "config": dict(pair.config),
            "predicted": _allocated(pair),
            "measured": pair.memory.peak_allocated,
            "by_category": dict(pair.prediction.bytes_by_category),
        }
        for pair in ordered[:3]
    ]
