"""The end of a search, foretold: trials that were said to come against those that came.

``python -m benchmarks.search.time_left`` replays recorded and synthetic spaces. Before each trial the sampler says how
many are still to come; in the end it is known. Shown by how large the expected gain was: the quartiles of what came
over the logarithm of gain over WORTHWHILE, of which ``TRIALS_FOR_EACH_E`` is the middle one, and how many sayings were
right within a factor of two, or two trials.
"""

from __future__ import annotations

import math
import statistics
import sys
from dataclasses import dataclass
from typing import Any

from autofit.driver.history import History
from autofit.driver.sampler import TRIALS_FOR_EACH_E
from autofit.driver.strategy import SamplerStrategy, make_strategy
from autofit.knobs.train_config import TrainConfig
from benchmarks.record import write_results
from benchmarks.search.contest import Truth
from benchmarks.search.parallel import play
from benchmarks.search.replay import RecordedPredictions
from benchmarks.search_regret import spaces

SEEDS = 12
FACTOR, TRIALS = 2.0, 2.0
GROUPS = ((0.0, 2.0), (2.0, 4.0), (4.0, 6.0), (6.0, math.inf))
"""Of the logarithm of the largest expected gain over the one at which a search ends."""


class Listening:
    """A strategy, and what it said before each trial: trials that had ended, and trials to come."""

    def __init__(self, strategy: SamplerStrategy) -> None:
        self._strategy = strategy
        self.said: dict[int, float] = {}

    @property
    def conclusion(self) -> str:
        """The strategy's own."""
        return self._strategy.conclusion

    def propose(self, history: History) -> TrainConfig | None:
        """The strategy's own; a proposal that was predicted not to fit was no trial, and the next one counts."""
        config = self._strategy.propose(history)
        if self._strategy.trials_to_come is not None:
            self.said[len(history.trials)] = self._strategy.trials_to_come
        return config


@dataclass(frozen=True)
class Saying:
    """Trials that were said to come, and those that came."""

    said: float
    came: int

    @property
    def is_right(self) -> bool:
        """Within a factor of two, or within two trials."""
        within = max(self.said, self.came) <= FACTOR * min(self.said, self.came)
        return within or abs(self.said - self.came) <= TRIALS


def sayings(name: str) -> list[Saying]:
    """Everything that is said in the searches of a space."""
    found = []
    for seed in range(SEEDS):
        truth = Truth.of(spaces()[name](seed))
        predictions = RecordedPredictions(truth.sweep)
        listening = Listening(make_strategy("autofit", truth.sweep.space, predicts=predictions, seed=seed))
        course = play(listening, truth, seed, workers=1)
        found += [Saying(said, course.num_trials - ended) for ended, said in listening.said.items()]
    return [saying for saying in found if saying.came]


def main(words: list[str]) -> int:
    """Play the spaces that are named, or all of them."""
    by_space = {name: sayings(name) for name in spaces() if not words or name in words}
    rows: list[dict[str, Any]] = [_row(name, each) for name, each in by_space.items()]
    everything = [saying for each in by_space.values() for saying in each]
    for low, high in GROUPS:
        inside = [each for each in everything if low <= each.said / TRIALS_FOR_EACH_E < high]
        rows.append(_row(f"log of gain {low:g} to {high:g}", inside))
    rows.append(_row("all", everything))
    print(f"{'':28} {'sayings':>8} {'trials to come for each e':>28} {'right':>7}")
    for row in rows:
        quartiles = " ".join(f"{value:8.2f}" for value in row["trials_for_each_e"])
        print(f"{row['name']:28} {row['sayings']:>8} {quartiles:>28} {row['right']:>7.0%}")
    if not words:
        write_results("search_time_left", {"seeds": SEEDS, "trials_for_each_e": TRIALS_FOR_EACH_E, "rows": rows})
    return 0


def _row(name: str, found: list[Saying]) -> dict[str, Any]:
    ratios = [TRIALS_FOR_EACH_E * each.came / each.said for each in found if each.said > 0]
    return {
        "name": name,
        "sayings": len(found),
        "trials_for_each_e": statistics.quantiles(ratios, n=4),
        "right": statistics.fmean(each.is_right for each in found),
    }


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
