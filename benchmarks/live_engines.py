"""The search engine beside autofit's first one, live on this CPU: ``python -m benchmarks.live_engines``.

The same job is searched by both, turn by turn, each time with nothing known beforehand but the traces of steps, which
both may use. Then both answers train side by side in plain runs, so that the two are compared on one scale.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import autofit
from autofit.study.outcome import Outcome
from autofit.study.result import Result
from benchmarks.plain_run import drawn, exported, plain_run
from benchmarks.record import spread, spreads, write_results
from benchmarks.search.ladder import LadderStrategy

ROUNDS, STEPS = 3, 16
JOB: dict[str, Any] = {
    "model": "examples/small-llama",
    "effective_batch": 16,
    "data": "examples/genesis.txt",
    "tokens_per_word": 1.3,
    "memory_limit": "120MiB",
    "device": "cpu",
    "fix": {"precision": "fp32", "compile": "off"},
    "budget": None,
}
ENGINES = ("autofit", "first engine")


def main() -> int:
    """Search in rounds, train in rounds, write the results."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="autofit-") as name:
        folder = Path(name)
        for number in range(ROUNDS):
            found = {}
            for engine in ENGINES if number % 2 == 0 else reversed(ENGINES):
                began = time.monotonic()
                found[engine] = _search(engine, folder, number)
                rows.append(_row(engine, number, found[engine], time.monotonic() - began))
            for row in rows[-2:]:
                row["delivered_seconds"] = []
            for again in range(2):
                for row in rows[-2:] if again == 0 else reversed(rows[-2:]):
                    row["delivered_seconds"].append(_train(found[row["engine"]], folder))
            for row in rows[-2:]:
                print({name: value for name, value in row.items() if name != "best"}, row["best"], flush=True)
    summary = {engine: _summary([row for row in rows if row["engine"] == engine]) for engine in ENGINES}
    for engine, figures in summary.items():
        print(f"{engine:14} {figures}")
    write_results("live_engines", {"job": JOB, "summary": summary, "rows": rows})
    return 0


def _search(engine: str, folder: Path, number: int) -> Result:
    home = folder / f"{engine}-{number}"
    first = mock.patch("autofit.driver.session.make_strategy", lambda *args, **others: LadderStrategy())
    with mock.patch.dict(os.environ, {"AUTOFIT_HOME": str(home)}):
        if engine == "autofit":
            return autofit.search(**JOB)
        with first:
            return autofit.search(**JOB)


def _row(engine: str, number: int, result: Result, seconds: float) -> dict[str, Any]:
    run = [trial for trial in result.trials if trial.outcome is not Outcome.SKIPPED]
    best = result.ranking.best
    assert best is not None
    return {
        "engine": engine,
        "round": number,
        "seconds": seconds,
        "configurations_run": len({trial.config for trial in run}),
        "trials": len(run),
        "out_of_memory": sum(trial.outcome is Outcome.OOM for trial in run),
        "reported_seconds": best.measurement.step_seconds,
        "best": dict(best.trial.values),
    }


def _train(result: Result, folder: Path) -> float:
    best, workload = result.ranking.best, result.record.workload
    assert best is not None
    lengths = drawn(workload.lengths, workload.effective_batch * (STEPS + 1), 0)
    run = plain_run(result, exported(result, best, folder / "best.py"), lengths, folder, steps=STEPS)
    assert run.steps, run.problem
    return statistics.fmean(run.steps[2:])


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    delivered = [seconds for row in rows for seconds in row["delivered_seconds"]]
    figures = spreads(rows, ("configurations_run", "trials", "out_of_memory", "seconds"))
    return figures | {"delivered_seconds": spread(delivered)}


if __name__ == "__main__":
    raise SystemExit(main())
