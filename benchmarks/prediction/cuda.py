"""Part 2: what a real GPU allocated and reserved, against what was predicted before and after it was calibrated."""

from __future__ import annotations

import statistics
from typing import Any

import autofit
from autofit import nvml
from autofit.outcome import Outcome
from autofit.prediction import Verdict

CASES: tuple[dict[str, Any], ...] = (
    {"model": "HuggingFaceTB/SmolLM2-135M", "effective_batch": 32, "seq_len": 512},
    {"model": "Qwen/Qwen3-0.6B", "effective_batch": 32, "seq_len": 1024},
    {"model": "answerdotai/ModernBERT-base", "effective_batch": 32, "seq_len": 512, "task": "sequence-classification"},
    {"model": "meta-llama/Llama-3.2-1B", "effective_batch": 32, "seq_len": 2048, "method": "lora"},
)
SECONDS_PER_CASE = 120


def run() -> dict[str, Any]:
    """Search each case; compare every measured trial with its prediction."""
    if not nvml.visible_indices():
        print("No GPU is here: this part is not yet measured on CUDA.")
        return {}
    rows = [row for case in CASES for row in _rows(case)]
    measured = [row for row in rows if row["measured_bytes"] is not None]
    for row in rows:
        print(row)
    summary = {
        "trials": len(rows),
        "uncalibrated": _summary([row for row in measured if not row["is_calibrated"]]),
        "calibrated": _summary([row for row in measured if row["trials_before"] >= 2]),
        "said to fit and ran out of memory": sum(
            row["verdict"] == Verdict.FITS.value and row["outcome"] == Outcome.OOM.value for row in rows
        ),
    }
    print(summary)
    return {"summary": summary, "rows": rows}


def _rows(case: dict[str, Any]) -> list[dict[str, Any]]:
    result = autofit.search(**case, budget=SECONDS_PER_CASE, fresh=True)
    rows = []
    for number, trial in enumerate(each for each in result.trials if each.prediction is not None and not each.whole):
        prediction, measurement = trial.prediction, trial.measurement
        assert prediction is not None
        memory = None if measurement is None else measurement.memory
        rows.append(
            {
                "model": case["model"],
                "config": dict(trial.values),
                "outcome": trial.outcome.value,
                "verdict": prediction.verdict.value,
                "is_calibrated": prediction.is_calibrated,
                "trials_before": number,
                "predicted_bytes": prediction.total_bytes,
                "measured_bytes": None if memory is None else memory.needed - memory.paged_state,
                "predicted_allocated": prediction.live_bytes + prediction.bytes_by_category["workspaces"],
                "measured_allocated": None if memory is None else memory.peak_allocated,
                "predicted_seconds": prediction.likely_seconds,
                "measured_seconds": None if measurement is None else measurement.step_seconds,
            }
        )
    return rows


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    if not rows:
        return {"trials": 0}
    total = [row["predicted_bytes"] / row["measured_bytes"] - 1 for row in rows]
    allocated = [row["predicted_allocated"] / row["measured_allocated"] - 1 for row in rows]
    return {
        "trials": len(rows),
        "mean_absolute_error": statistics.fmean(map(abs, total)),
        "worst_under_prediction": min(0.0, *total),
        "allocated_mean_absolute_error": statistics.fmean(map(abs, allocated)),
    }
