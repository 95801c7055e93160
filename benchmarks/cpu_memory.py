"""``python -m benchmarks.cpu_memory``: is a need that a CPU trial reports what the configuration dies without?

Configurations are drawn at random from the search spaces of three small models. Each is run four times: short and
whole with all memory, then whole with a limit of 110 % and of 90 % of the reported need. Expected: short and whole
needs differ by at most 5 %, everything runs at 110 %, and nothing at 90 %.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from autofit.driver.workers import Workers
from autofit.job.request import JobRequest
from autofit.job.situation import Limits, Situation
from autofit.knobs.recipe import recipe_for
from autofit.knobs.space import SearchSpace, SpaceRequest
from autofit.knobs.train_config import TrainConfig
from autofit.report.text import describe
from autofit.study.outcome import Outcome
from autofit.study.trial import RunResult
from autofit.trial.protocol import MeasuringPlan
from autofit.units import format_bytes
from benchmarks.record import write_results

ROOT = Path(__file__).parents[1]
GENESIS = str(ROOT / "examples" / "genesis.txt")
MODELS = ROOT / "benchmarks" / "search" / "models"
JOBS: dict[str, dict[str, Any]] = {
    "small-llama, genesis": {"model": str(ROOT / "examples" / "small-llama"), "data": GENESIS},
    "small-gpt-neox, fixed": {"model": str(MODELS / "small-gpt-neox"), "seq_len": 128},
    "small-bert, several lengths": {
        "model": str(MODELS / "small-bert"),
        "lengths": tuple(range(8, 250, 3)) * 4,
        "task": "masked-lm",
    },
}
SHORT = MeasuringPlan(patience_seconds=0.5)
WHOLE = MeasuringPlan(patience_seconds=1.0, whole=True)
ABOVE, BELOW = 1.10, 0.90
MOST_DIFFERENCE = 0.05


def main() -> int:
    """Run it; 1 where an expectation does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configs", type=int, default=35, help="configurations of each model")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = [row for name in JOBS for row in _rows(name, options.configs, options.seed)]
    done = [row for row in rows if "problem" not in row]
    differences = [abs(row["short"] / row["whole"] - 1) for row in done]
    summary = {
        "configurations": len(done),
        "not measured": len(rows) - len(done),
        "median difference of short and whole": statistics.median(differences),
        "largest difference": max(differences),
        "more than 5 %": sum(each > MOST_DIFFERENCE for each in differences),
        "ran at 110 %": sum(row["above"] == Outcome.OK for row in done),
        "out of memory at 90 %": sum(row["below"] == Outcome.OOM for row in done),
    }
    for name, value in summary.items():
        print(f"{name}: {value:.1%}" if isinstance(value, float) else f"{name}: {value}")
    write_results("cpu_memory", {"summary": summary, "rows": rows})
    holds = summary["ran at 110 %"] == summary["out of memory at 90 %"] == len(done)
    return 0 if holds and not summary["more than 5 %"] else 1


def _rows(name: str, number: int, seed: int) -> Iterator[dict[str, Any]]:
    record = JobRequest(device="cpu", effective_batch=16, **JOBS[name]).record()
    with tempfile.TemporaryDirectory(prefix="autofit-") as scratch:
        folder = Path(scratch)
        with Workers(record, folder, folder / "traces", print) as workers:
            situation = workers.probe()
            space = SearchSpace(situation, SpaceRequest(forbid={"compile": ("inductor",)}))
            for config in random.Random(seed).sample(space.configs, min(number, len(space))):
                row = {"job": name, "config": dict(config), **_four_runs(workers, situation, config)}
                print(_line(row, config), flush=True)
                yield row


def _four_runs(workers: Workers, situation: Situation, config: TrainConfig) -> dict[str, Any]:
    def run(plan: MeasuringPlan, limit: int | None = None) -> RunResult:
        limits = situation.limits if limit is None else Limits(memory_bytes=limit, headroom=0.0)
        limited = replace(situation, limits=limits)
        return workers.runner(limited).run(recipe_for(config, limited), plan, "one")

    short, whole = run(SHORT), run(WHOLE)
    if short.measurement is None or whole.measurement is None:
        return {"problem": short.reason or whole.reason}
    need = whole.measurement.memory.needed
    above, below = run(WHOLE, round(ABOVE * need)), run(WHOLE, round(BELOW * need))
    return {
        "short": short.measurement.memory.needed,
        "whole": need,
        "above": above.outcome.value,
        "above_reason": above.reason,
        "below": below.outcome.value,
        "below_reason": below.reason,
    }


def _line(row: dict[str, Any], config: TrainConfig) -> str:
    if "problem" in row:
        return f"{row['job']}: {describe(config)}: {row['problem']}"
    difference = row["short"] / row["whole"] - 1
    return (
        f"{format_bytes(row['short']):>8} short, {format_bytes(row['whole']):>8} whole ({difference:+.1%}), "
        f"110 %: {row['above']}, 90 %: {row['below']}: {row['job']}, {describe(config)}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
