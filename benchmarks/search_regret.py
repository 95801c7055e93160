"""Distance from the best of the whole space at a search's end, and its cost, against other strategies.

``python -m benchmarks.search_regret [SWEEP ...]`` replays every recorded sweep of ``benchmarks/search/sweeps``, those
that ``benchmarks.gpu`` recorded on a GPU, and the synthetic spaces, 20 seeds for each strategy; prints a table for each
and writes ``results/search_regret.json``.
``--tune`` uses only the spaces that the sampler was tuned on.
"""

from __future__ import annotations

import functools
import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from autofit.driver.samplers import SAMPLERS
from autofit.driver.strategy import make_strategy
from benchmarks.record import RESULTS, write_results
from benchmarks.search.contest import Contestant, Course, Truth, contest
from benchmarks.search.ladder import LadderStrategy
from benchmarks.search.peer_strategies import PEERS, Peer
from benchmarks.search.record_sweep import SWEEPS
from benchmarks.search.replay import RecordedPredictions
from benchmarks.search.sweep import Sweep, read_sweep
from benchmarks.search.synthetic import HELD_OUT, TUNED_ON, synthetic_sweep

SEEDS = 20
MOST_TRIALS = 30
LEFT_OUT = "gp"
"""Optuna's Gaussian process takes seconds for each proposal here, hours for 20 seeds of every space."""
RECORDED_TUNED_ON = ("llama-fixed",)
LARGE = 500
"""Spaces above this have targets of their own."""


Maker = Callable[[Sweep, int], Contestant]


def _of_sampler(name: str, *, predict: bool) -> Maker:
    return lambda sweep, seed: make_strategy(
        name, sweep.space, predicts=RecordedPredictions(sweep) if predict else None, seed=seed
    )


def _of_peer(peer: type[Peer]) -> Maker:
    return lambda sweep, seed: peer()


STRATEGIES: list[tuple[str, Maker, bool]] = [
    ("autofit", _of_sampler("autofit", predict=True), True),
    ("autofit, nothing predicted", _of_sampler("autofit", predict=False), False),
    *((name, _of_sampler(name, predict=False), False) for name in SAMPLERS if name not in ("autofit", LEFT_OUT)),
    ("ladder (autofit's first)", lambda sweep, seed: LadderStrategy(), False),
    *((peer.name, _of_peer(peer), False) for peer in PEERS),
]
"""Name, maker, and whether what is predicted not to fit is skipped."""


def main(words: list[str]) -> int:
    """Play the spaces that are named, or all of them."""
    tuning = "--tune" in words
    names = [word for word in words if not word.startswith("--")]
    figures: dict[str, Any] = {}
    for name, load in spaces(tuning).items():
        if names and name not in names:
            continue
        figures[name] = _play(load)
    if not names and not tuning:
        path = write_results("search_regret", {"seeds": SEEDS, "most_trials": MOST_TRIALS, "spaces": figures})
        print("The curves as a picture: python -m benchmarks.search.curves", path)
    return 0


def spaces(tuning: bool = False) -> dict[str, Callable[[int], Sweep]]:
    """Every space by its name, loaded for a seed; with ``tuning`` only those that the sampler was tuned on."""
    recorded = {path.name.removesuffix(".json.gz"): path for path in sorted(SWEEPS.glob("*.json.gz"))}
    for path in sorted(RESULTS.glob("gpu-*/sweeps/*.json.gz")):
        recorded[f"{path.parents[1].name}: {path.name.removesuffix('.json.gz')}"] = path
    found: dict[str, Callable[[int], Sweep]] = {}
    for name, path in recorded.items():
        if not name.startswith("predicted-") and (not tuning or name in RECORDED_TUNED_ON):
            found[name] = _always(read_sweep(path))
    for kind in (*TUNED_ON, *(() if tuning else HELD_OUT)):
        found[kind.name] = functools.partial(synthetic_sweep, kind)
    return found


def _always(sweep: Sweep) -> Callable[[int], Sweep]:
    return lambda seed: sweep


def _play(load: Callable[[int], Sweep]) -> dict[str, Any]:
    """All strategies over a space; a synthetic one has another hidden truth for every seed."""
    sweep = load(0)
    truths = [Truth.of(load(seed)) for seed in range(SEEDS)] if sweep.synthetic else [Truth.of(sweep)] * SEEDS
    truth = truths[0]
    kind = "synthetic" if sweep.synthetic else "recorded"
    use = "tuned on" if sweep.name in RECORDED_TUNED_ON or "tuned" in sweep.name else "held out"
    print(f"\n{sweep.name}: {kind}, {use}, {len(sweep.rows)} configurations, {truth.full_cost:.0f} s to measure all")
    titles = f"{'strategy':34} {'trials':>6} {'1 %':>5} {'5 %':>5} {'cost to 1 %':>15} {'after 15':>15} "
    print(titles + f"{'at the end':>15} {'OOM':>4}")
    shares = {}
    for name, make, skips in STRATEGIES:
        began = time.monotonic()
        courses = [
            contest(make(each.sweep, seed), each, seed, most_trials=MOST_TRIALS, skips=skips)
            for seed, each in enumerate(truths)
        ]
        shares[name] = _summary(courses, truths) | {"seconds_for_all_seeds": time.monotonic() - began}
        print(_line(name, shares[name]), flush=True)
    return {
        "kind": kind,
        "use": use,
        "configurations": len(sweep.rows),
        "full_cost_seconds": truth.full_cost,
        "strategies": shares,
    }


def _summary(courses: list[Course], truths: list[Truth]) -> dict[str, Any]:
    full_costs = [truth.full_cost for truth in truths]

    def spread(values: list[float]) -> dict[str, float | None]:
        return {"median": _finite(statistics.median(values)), "worst": _finite(max(values))}

    share = 0.05 if len(truths[0].sweep.rows) > LARGE else 0.25
    costs = list(zip(courses, full_costs, strict=True))
    return {
        "trials": spread([float(course.num_trials) for course in courses]),
        "trials_to_1_percent": spread([course.trials_to(0.01) for course in courses]),
        "trials_to_5_percent": spread([course.trials_to(0.05) for course in courses]),
        "cost_to_1_percent": spread([course.cost_to(0.01) / full for course, full in costs]),
        "cost_to_5_percent": spread([course.cost_to(0.05) / full for course, full in costs]),
        "regret_after_15": spread([course.regret_after(15) for course in courses]),
        "regret_at_allowed_cost": spread([course.regret_at(share * full) for course, full in costs]),
        "final_regret": spread([course.regret_after(MOST_TRIALS) for course in courses]),
        "total_cost": spread([course.costs[-1] / full for course, full in costs]),
        "out_of_memory": spread([float(course.out_of_memory) for course in courses]),
        "stopped_by_itself": sum(bool(course.ended) for course in courses),
        "regret_by_trial": [
            [_finite(statistics.median(values)), _finite(max(values))]
            for values in ([course.regret_after(n) for course in courses] for n in range(1, MOST_TRIALS + 1))
        ],
    }


def _line(name: str, summary: dict[str, Any]) -> str:
    def percent(pair: dict[str, float | None]) -> str:
        return " / ".join("-" if value is None else f"{value:.1%}" for value in pair.values())

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.0f}"

    return (
        f"{name:34} {number(summary['trials']['median']):>6} {number(summary['trials_to_1_percent']['median']):>5} "
        f"{number(summary['trials_to_5_percent']['median']):>5} {percent(summary['cost_to_1_percent']):>15} "
        f"{percent(summary['regret_after_15']):>15} {percent(summary['final_regret']):>15} "
        f"{number(summary['out_of_memory']['median']):>4}"
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
