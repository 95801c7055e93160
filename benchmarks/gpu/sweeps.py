"""Part 2: full sweeps without a limit, in the format that is replayed, and what they say of smaller cards."""

from __future__ import annotations

import functools
import statistics
from pathlib import Path
from typing import Any

from autofit.job.situation import Limits
from autofit.study.outcome import Outcome
from autofit.units import GIB
from benchmarks.gpu.bench import Bench, PartResult
from benchmarks.gpu.jobs import Job, jobs_for
from benchmarks.record import about
from benchmarks.search.recorder import Recorder
from benchmarks.search.smaller_card import on_smaller_card, undecided
from benchmarks.search.sweep import Sweep, write_sweep

TARGET_OVERHEAD_SECONDS = 2.0


def run(bench: Bench) -> PartResult:
    """Go on with every sweep until the time is up."""
    jobs = jobs_for(is_small=bench.is_small)
    rows = {job.name: bench.item("sweeps", job.name, functools.partial(_sweep, bench, job)) for job in jobs}
    figures = {"target_overhead_seconds": TARGET_OVERHEAD_SECONDS, "sweeps": {k: v for k, v in rows.items() if v}}
    return PartResult(figures=figures, is_complete=all(row is not None and row["is_complete"] for row in rows.values()))


def sweep_path(bench: Bench, name: str) -> Path:
    """Path of a finished sweep."""
    return bench.folder / "sweeps" / f"{name}.json.gz"


def _sweep(bench: Bench, job: Job) -> dict[str, Any]:
    scratch = bench.scratch("sweeps")
    with Recorder(job.name, {"device": bench.device, **job.job}, job.wanted, scratch, job.passes) as recorder:
        is_complete = recorder.run(bench.deadline)
        overheads = recorder.overheads()
        answered = recorder.answers()
        row: dict[str, Any] = {
            "configurations": len(recorder.space),
            "answered": len(answered),
            "passes": job.passes,
            "overhead_seconds": statistics.median(overheads) if overheads else None,
            "out_of_memory": sum(each.outcome is Outcome.OOM for some in answered.values() for each in some),
            "failed": sorted(
                {
                    f"{each.outcome.value}: {each.reason}"
                    for some in answered.values()
                    for each in some
                    if each.outcome not in (Outcome.OK, Outcome.OOM)
                }
            ),
            "limits": {},
        }
        print(
            f"{job.name}: {len(answered)} of {len(recorder.space)} configurations answered, "
            f"overhead of a trial {row['overhead_seconds'] or 0:.1f} s",
            flush=True,
        )
        if is_complete:
            sweep = recorder.sweep(about(f"python -m benchmarks.gpu --parts sweeps, {job.name}"))
            write_sweep(sweep, sweep_path(bench, job.name))
            for limit in bench.limits_of(job):
                done = _on_smaller_card(bench, job, recorder, sweep, Limits(memory_bytes=limit))
                row["limits"][f"{limit / GIB:g}GiB"] = done
                is_complete = is_complete and done["is_complete"]
    row["is_complete"] = is_complete
    return row


def _on_smaller_card(bench: Bench, job: Job, recorder: Recorder, sweep: Sweep, limits: Limits) -> dict[str, Any]:
    again = undecided(sweep, limits)
    answers = {}
    is_complete = True
    if again:
        capped = {"device": bench.device, **job.job, "memory_limit": limits.memory_bytes}
        name = f"{job.name}-{limits.memory_bytes // 2**20}MiB"
        with Recorder(name, capped, job.wanted, bench.scratch("sweeps"), job.passes) as under_cap:
            is_complete = under_cap.run(bench.deadline, again)
            answers = under_cap.answers()
    row: dict[str, Any] = {"run_again": len(again), "is_complete": is_complete}
    if is_complete:
        smaller = on_smaller_card(sweep, limits, again=answers, predictions=recorder.predictions(limits))
        write_sweep(smaller, sweep_path(bench, smaller.name))
        outcomes = [answer.outcome for each in smaller.rows for answer in each.answers]
        row |= {"name": smaller.name, "fit": outcomes.count(Outcome.OK), "out_of_memory": outcomes.count(Outcome.OOM)}
    return row
