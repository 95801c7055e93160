"""Part 3: searches as a user runs them, held against the sweeps, against plain training runs, and for a long while."""

from __future__ import annotations

import functools
import statistics
import time
from pathlib import Path
from typing import Any

import autofit
from autofit.study.outcome import Outcome
from autofit.study.result import Result
from autofit.units import GIB
from benchmarks.delivered import compare
from benchmarks.gpu.bench import Bench, PartResult
from benchmarks.gpu.jobs import Job, jobs_for
from benchmarks.gpu.sweeps import sweep_path
from benchmarks.plain_run import drawn, exported, plain_run
from benchmarks.search.replay import true_seconds
from benchmarks.search.sweep import read_sweep

TARGETS = {"search_seconds": 240.0, "regret": 0.01, "overstated_by": 0.02, "slower_after_a_while": 0.03}
ROUNDS, STEPS, OTHERS = 2, 30, 4
LONG_STEPS, SETTLED_AFTER = 300, 60
"""Optimizer steps of the long run, and after how many the clocks are taken to have settled."""
LONGEST_FROM = 0.7
"""After this share of the long run, effective batches of the longest samples are mixed in."""


def run(bench: Bench) -> PartResult:
    """One search for each job and limit."""
    rows = {
        name_of(job, limit): bench.item("search", name_of(job, limit), functools.partial(_search, bench, job, limit))
        for job in jobs_for(is_small=bench.is_small)
        for limit in bench.limits_of(job)
    }
    figures = {"targets": TARGETS, "searches": {name: row for name, row in rows.items() if row}}
    return PartResult(figures=figures, is_complete=all(row is not None and row["is_complete"] for row in rows.values()))


def name_of(job: Job, limit: int) -> str:
    """A job on a card of so many bytes, as its sweep is named too."""
    return f"{job.name}-{limit / GIB:g}GiB"


def _search(bench: Bench, job: Job, limit: int) -> dict[str, Any]:
    folder = bench.scratch("search")
    wanted = {**job.job, "memory_limit": limit, "device": bench.device}
    began = time.monotonic()
    result = autofit.search(
        **wanted,
        **job.wanted,
        budget=60.0 if bench.is_small else 600.0,
        max_trials=2 if bench.is_small else None,
        storage=f"sqlite:///{folder}/{job.name}-{limit}.db",
        fresh=True,
    )
    took = time.monotonic() - began
    best = result.ranking.best
    assert best is not None
    row: dict[str, Any] = {
        "search_seconds": took,
        "trials": len(result.trials),
        "out_of_memory": sum(trial.outcome is Outcome.OOM for trial in result.trials),
        "best": dict(best.trial.values),
        "step_seconds": best.measurement.step_seconds,
        "speedup_over_reference": best.speedup,
        "regret": _regret(bench, job, limit, result),
    }
    print(f"{job.name}, {limit / GIB:g} GiB: {took:.0f} s, {row['trials']} trials", flush=True)
    rounds, steps, others = (1, 6, 1) if bench.is_small else (ROUNDS, STEPS, OTHERS)
    row["delivered"] = compare(result, folder, rounds=rounds, steps=steps, others=others)
    row["long_run"] = _long_run(bench, result, folder, steps=8 if bench.is_small else LONG_STEPS)
    print(f"    long run: {row['long_run']}", flush=True)
    return row


def _regret(bench: Bench, job: Job, limit: int, result: Result) -> float | None:
    """The recommendation's share above the sweep's best, by the sweep's own times; None without a sweep."""
    path = sweep_path(bench, name_of(job, limit))
    best = result.ranking.best
    if not path.exists() or best is None:
        return None
    seconds = true_seconds(read_sweep(path))
    found = seconds.get(best.trial.config)
    return None if found is None else found / min(seconds.values()) - 1


def _long_run(bench: Bench, result: Result, folder: Path, *, steps: int) -> dict[str, Any]:
    """The recommendation for hundreds of steps: peak, speed after the clocks have settled, out of memory or not."""
    best, workload, limits = result.ranking.best, result.record.workload, result.situation.limits
    assert best is not None
    size = workload.effective_batch
    lengths = drawn(workload.lengths, size * (steps + 1), seed=7)
    ordinary = int(LONGEST_FROM * steps)
    for step in range(ordinary, steps, 5):
        lengths[step * size : (step + 1) * size] = workload.lengths.longest_samples(size)
    run = plain_run(
        result,
        exported(result, best, folder / "long.py"),
        lengths,
        folder,
        steps=steps,
        in_order=True,
        memory_bytes=limits.memory_bytes,
    )
    row: dict[str, Any] = {"steps": steps, "problem": run.problem}
    if run.steps:
        settled = run.steps[min(SETTLED_AFTER, ordinary // 2) : ordinary - 1]
        row |= {
            "step_seconds": statistics.fmean(settled),
            "slower_than_reported": statistics.fmean(settled) / best.measurement.step_seconds - 1,
            "peak_reserved": run.peak_reserved,
            "measured_peak_reserved": best.measurement.memory.peak_reserved,
            "usable_bytes": limits.usable_bytes,
            "alloc_retries": run.alloc_retries,
        }
    return row
