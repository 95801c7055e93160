"""Part 5: the same search under a tight memory limit, with prediction and without, turn by turn."""

from __future__ import annotations

import os
import tempfile
import time
from typing import Any

import autofit
from autofit.study.outcome import Outcome
from benchmarks.record import spreads

ROUNDS = 3
LIMITS = ("110MiB",)
JOB: dict[str, Any] = {
    "effective_batch": 32,
    "seq_len": 128,
    "device": "cpu",
    "numerics": "exact",
    "fix": {"precision": "fp32", "compile": "off"},
    "budget": None,
}
MODEL = "examples/small-llama"


def run() -> dict[str, Any]:
    """Search each limit with and without prediction, in rounds; every search begins with nothing known or traced."""
    rows = []
    for limit in LIMITS:
        for number in range(ROUNDS):
            for predict in (True, False) if number % 2 else (False, True):
                rows.append(_search(limit, number, predict))
                print(rows[-1], flush=True)
    summary = {
        f"{limit}, {'with' if predict else 'without'} prediction": _summary(
            [row for row in rows if row["limit"] == limit and row["predict"] == predict]
        )
        for limit in LIMITS
        for predict in (False, True)
    }
    for name, figures in summary.items():
        print(name, figures)
    return {"model": MODEL, "job": {**JOB, "fix": dict(JOB["fix"])}, "summary": summary, "rows": rows}


def _search(limit: str, number: int, predict: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="autofit-") as home:
        before = os.environ.get("AUTOFIT_HOME")
        os.environ["AUTOFIT_HOME"] = home
        try:
            began = time.monotonic()
            result = autofit.search(MODEL, **JOB, memory_limit=limit, predict=predict)
            took = time.monotonic() - began
        finally:
            if before is None:
                del os.environ["AUTOFIT_HOME"]
            else:
                os.environ["AUTOFIT_HOME"] = before
    run_ones = [trial for trial in result.trials if trial.outcome is not Outcome.SKIPPED]
    best = result.ranking.best
    assert best is not None
    to_best = next(place for place, trial in enumerate(run_ones, start=1) if trial.config == best.trial.config)
    return {
        "limit": limit,
        "round": number,
        "predict": predict,
        "trials_run": len(run_ones),
        "out_of_memory": sum(trial.outcome is Outcome.OOM for trial in run_ones),
        "skipped": len(result.trials) - len(run_ones),
        "trials_until_the_best": to_best,
        "seconds": took,
        "best_step_seconds": best.measurement.step_seconds,
        "best": dict(best.trial.values),
    }


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    names = ("trials_run", "out_of_memory", "skipped", "trials_until_the_best", "seconds", "best_step_seconds")
    return spreads(rows, names)
