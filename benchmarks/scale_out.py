"""Trials a minute that several workers get through, and what a trial costs the database.

``python -m benchmarks.scale_out``: scripted trials of a fixed length in processes of their own, over PostgreSQL, by
1, 2, 4 and 8 workers, one after the other; each runs the same space whole. Needs PostgreSQL's server programs. Writes
``results/scale_out.json``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any

import psycopg

from autofit.driver.crew import Shared
from benchmarks.record import write_results
from tests.driver.test_crew import members, searching, study_at
from tests.postgres import Server, server

TRIAL_SECONDS = 3.0
CREWS = (1, 2, 4, 8)


def main() -> int:
    """Run every size of crew once, each over a database of its own."""
    rows = []
    print(f"{'workers':>7} {'trials':>7} {'seconds':>8} {'a minute':>9} {'over one':>9} {'transactions a trial':>21}")
    for workers in CREWS:
        with server() as database:
            rows.append(_measure(database, workers))
        row = rows[-1]
        row["over_one"] = row["trials_a_minute"] / rows[0]["trials_a_minute"]
        print(
            f"{workers:>7} {row['trials']:>7} {row['seconds']:>8.1f} {row['trials_a_minute']:>9.1f} "
            f"{row['over_one']:>8.2f}x {row['transactions_a_trial']:>21.1f}",
            flush=True,
        )
    idle = list(_idle_load())
    print(f"Waiting costs {statistics.fmean(idle):.1f} transactions a second and worker.")
    write_results("scale_out", {"trial_seconds": TRIAL_SECONDS, "crews": rows, "idle_transactions_a_second": idle})
    return 0


def _measure(database: Server, workers: int) -> dict[str, Any]:
    """The exploration of a space: from the first trial that begins to the last that ends."""
    study = study_at(database.url)
    with members(database.url, workers, TRIAL_SECONDS) as crew:
        crew.await_ready()
        search, _ = searching(study)
        _await_all(search._crew, workers)
        before, began = _transactions(database), time.monotonic()
        search._explore()
        seconds = time.monotonic() - began
        after = _transactions(database)
    trials = len(study.trials())
    return {
        "workers": workers,
        "trials": trials,
        "seconds": seconds,
        "trials_a_minute": 60 * trials / seconds,
        "transactions_a_trial": (after - before) / trials,
    }


def _idle_load() -> Iterator[float]:
    """Transactions a second that each of 4 workers causes while there is nothing to do."""
    workers, seconds = 4, 10.0
    with server() as database:
        study = study_at(database.url)
        with members(database.url, workers, TRIAL_SECONDS) as crew:
            crew.await_ready()
            _await_all(Shared(study, lambda sentence: None), workers)
            before = _transactions(database)
            time.sleep(seconds)
            yield (_transactions(database) - before) / seconds / workers


def _await_all(crew: Any, workers: int) -> None:
    while len(crew._members) < workers:
        crew.next_ended()


def _transactions(database: Server) -> int:
    """Transactions that the server has committed; its counters lag a second."""
    time.sleep(1.2)
    with psycopg.connect(database.url.replace("+psycopg", ""), autocommit=True) as connection:
        row = connection.execute("select sum(xact_commit) from pg_stat_database").fetchone()
    assert row is not None
    return int(row[0])


if __name__ == "__main__":
    raise SystemExit(main())
