"""Reported against delivered: the table's speed against a plain Trainer run with the arguments that are exported.

``python -m benchmarks.delivered`` searches two small models, takes the recommendation and four other measured
configurations of each, and trains each with the file that exporting it writes, in a process of its own that knows
nothing of autofit (``plain_run``): 24 optimizer steps, of which the first four are left out. Every configuration runs
three times, turn by turn; the machine's own noise is what these runs differ by.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

import autofit
from autofit.study.ranking import Ranked
from autofit.study.result import Result
from benchmarks.plain_run import drawn, exported, plain_run
from benchmarks.record import write_results
from benchmarks.search.record_sweep import MODELS

ROUNDS, STEPS, LEFT_OUT = 3, 24, 4
OTHERS = 4
JOBS: list[dict[str, Any]] = [
    {"model": "examples/small-llama", "effective_batch": 16, "seq_len": 128},
    {"model": str(MODELS / "small-gpt-neox"), "effective_batch": 12, "seq_len": 96},
]


def main() -> int:
    """Search, run, compare, write the results."""
    figures = []
    for job in JOBS:
        with tempfile.TemporaryDirectory(prefix="autofit-") as folder:
            result = autofit.search(
                **job,
                device="cpu",
                budget=None,
                fix={"precision": "fp32", "compile": "off"},
                storage=f"sqlite:///{folder}/studies.db",
            )
            print(f"\n{job['model']}: reported and delivered seconds of a step")
            rows = compare(result, Path(folder), rounds=ROUNDS, steps=STEPS, others=OTHERS)
        figures.append({"job": job, "rows": rows})
    write_results("delivered", {"rounds": ROUNDS, "steps": STEPS, "jobs": figures})
    return 0


def compare(
    result: Result, folder: Path, *, rounds: int, steps: int, others: int, left_out: int = LEFT_OUT
) -> list[dict[str, Any]]:
    """A row for the recommendation and for ``others`` more: what was reported, what plain runs delivered."""
    workload = result.record.workload
    best = result.ranking.best
    assert best is not None
    chosen = [best, *_spread([each for each in result.ranking.ranked if each is not best], others)]
    files = [exported(result, each, folder / f"rank-{each.rank}.py") for each in chosen]
    runs: list[list[float]] = [[] for _ in chosen]
    problems = [""] * len(chosen)
    for number in range(rounds):
        # The samples of one round are the same for all; what a layout makes of them is part of what is compared.
        lengths = drawn(workload.lengths, workload.effective_batch * (steps + 1), number)
        for place in range(len(chosen)) if number % 2 == 0 else reversed(range(len(chosen))):
            memory = result.situation.limits.memory_bytes
            run = plain_run(result, files[place], lengths, folder, steps=steps, seed=number, memory_bytes=memory)
            problems[place] = problems[place] or run.problem
            if run.steps:
                runs[place].append(statistics.fmean(run.steps[left_out - 1 :]))
    rows = []
    for each, delivered, problem in zip(chosen, runs, problems, strict=True):
        row = _row(each, delivered, problem)
        rows.append(row)
        print(_line(row), flush=True)
    return rows


def _row(ranked: Ranked, delivered: list[float], problem: str) -> dict[str, Any]:
    reported = ranked.measurement.step_seconds
    row: dict[str, Any] = {
        "config": dict(ranked.trial.values),
        "rank": ranked.rank,
        "confirmed": ranked.trial.whole,
        "reported_seconds": reported,
        "reported_uncertainty": ranked.measurement.uncertainty,
        "delivered_seconds": delivered,
        "problem": problem,
    }
    if delivered:
        middle = statistics.median(delivered)
        row["overstated_by"] = middle / reported - 1
        row["noise_of_delivered"] = (max(delivered) - min(delivered)) / 2 / middle
    return row


def _line(row: dict[str, Any]) -> str:
    start = f"rank {row['rank']:3} {'confirmed' if row['confirmed'] else 'single':9} {row['reported_seconds']:8.4f}"
    if not row["delivered_seconds"]:
        return f"{start} failed: {row['problem']}"
    return (
        f"{start} {statistics.median(row['delivered_seconds']):8.4f} {row['overstated_by']:+7.1%}   "
        f"noise of the plain runs ±{row['noise_of_delivered']:.1%}"
    )


def _spread(ranked: list[Ranked], number: int) -> list[Ranked]:
    """A few, from the fastest to the slowest."""
    if len(ranked) <= number:
        return ranked
    if number < 2:
        return ranked[:number]
    return [ranked[round(place * (len(ranked) - 1) / (number - 1))] for place in range(number)]


if __name__ == "__main__":
    raise SystemExit(main())
