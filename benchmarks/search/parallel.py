"""Many that measure at once: does a search of several need more trials? ``python -m benchmarks.search.parallel``.

Replays recorded and synthetic spaces with 1, 2, 4 and 8 that run trials side by side, each trial as long as it took
when it was recorded. Counts the trials, and the time, until the answer stays within 1 % of the best of the space, and
to the end. Proposals take no time here; ``benchmarks.scale_out`` has what the database and they take.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Iterable
from typing import Any

from autofit.driver.history import History
from autofit.driver.strategy import make_strategy
from autofit.knobs.train_config import TrainConfig
from autofit.study.prediction import Verdict
from autofit.study.trial import RunResult, Trial
from benchmarks.record import write_results
from benchmarks.search.contest import Contestant, Course, Truth
from benchmarks.search.replay import RecordedPredictions, ReplayRunner
from benchmarks.search_regret import spaces

SEEDS = 20
MOST_TRIALS = 60
CREWS = (1, 2, 4, 8)
ENOUGH = 0.01


def play(strategy: Contestant, truth: Truth, seed: int, workers: int) -> Course:
    """One search by ``workers`` side by side; costs are seconds since it began."""
    sweep, runner = truth.sweep, ReplayRunner(truth.sweep, seed)
    trials: list[Trial] = []
    ruled_out: set[TrainConfig] = set()
    running: list[tuple[float, TrainConfig, RunResult]] = []
    course = Course()
    now = 0.0
    while True:
        history = History(sweep.space, trials, (), ruled_out, [config for _, config, _ in running])
        config = None
        if len(running) < workers and len(trials) + len(running) < MOST_TRIALS:
            config = strategy.propose(history)
        if config is not None:
            row = sweep.by_config[config]
            if row.prediction is not None and row.prediction.verdict is Verdict.NO:
                ruled_out.add(config)
            else:
                result = runner.answer(row)
                running.append((now + result.wall_seconds, config, result))
            continue
        if not running:
            course.ended = strategy.conclusion
            return course
        now, config, result = ended = min(running, key=lambda each: each[0])
        running.remove(ended)
        trials.append(Trial(**vars(result), number=len(trials), values=dict(config)))
        best = History(sweep.space, trials).best
        course.costs.append(now)
        course.regrets.append(truth.regret(None if best is None else best.config))


def main(words: list[str]) -> int:
    """Play the spaces that are named, or all of them."""
    figures: dict[str, Any] = {}
    print(f"{'space':28} {'workers':>7} {'trials to 1 %':>14} {'seconds to 1 %':>15} {'trials':>7} {'seconds':>8}")
    for name, load in spaces().items():
        if words and name not in words:
            continue
        truths = [Truth.of(load(seed)) for seed in range(SEEDS)]
        figures[name] = {}
        for workers in CREWS:
            courses = [
                play(
                    make_strategy("autofit", truth.sweep.space, predicts=RecordedPredictions(truth.sweep), seed=seed),
                    truth,
                    seed,
                    workers,
                )
                for seed, truth in enumerate(truths)
            ]
            row = figures[name][str(workers)] = _summary(courses)
            print(
                f"{name:28} {workers:>7} {row['trials_to_1_percent']:>14.1f} {row['seconds_to_1_percent']:>15.0f} "
                f"{row['trials']:>7.1f} {row['seconds']:>8.0f}",
                flush=True,
            )
    if not words:
        write_results("search_parallel", {"seeds": SEEDS, "most_trials": MOST_TRIALS, "spaces": figures})
    return 0


def _summary(courses: list[Course]) -> dict[str, float | None]:
    """Means over the seeds; of those that reached the answer, with how many did."""
    reached = [course for course in courses if math.isfinite(course.trials_to(ENOUGH))]

    def mean(values: Iterable[float]) -> float:
        return statistics.fmean(values) if reached else math.nan

    return {
        "reached": len(reached),
        "trials_to_1_percent": statistics.fmean(course.trials_to(ENOUGH) for course in reached)
        if reached
        else math.nan,
        "seconds_to_1_percent": mean(course.cost_to(ENOUGH) for course in reached),
        "trials": statistics.fmean(course.num_trials for course in courses),
        "seconds": statistics.fmean(course.costs[-1] for course in courses),
    }


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
