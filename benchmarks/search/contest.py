"""One strategy over one sweep with one seed: what it ran, and how far its answer was from the best."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

from autofit.driver.history import History
from autofit.knobs.train_config import TrainConfig
from autofit.study.outcome import Outcome
from autofit.study.prediction import Verdict
from autofit.study.trial import Trial
from benchmarks.search.replay import ReplayRunner, full_cost, true_seconds
from benchmarks.search.sweep import Sweep


class Contestant(Protocol):
    """A strategy; with a ``choose`` of its own where it does not end with the fastest it measured."""

    @property
    def conclusion(self) -> str: ...

    def propose(self, history: History) -> TrainConfig | None: ...


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Knowledge of a sweep that no strategy sees."""

    sweep: Sweep
    seconds: dict[TrainConfig, float]
    best: float
    full_cost: float

    @classmethod
    def of(cls, sweep: Sweep) -> Truth:
        """From all passes."""
        seconds = true_seconds(sweep)
        return cls(sweep=sweep, seconds=seconds, best=min(seconds.values()), full_cost=full_cost(sweep))

    def regret(self, config: TrainConfig | None) -> float:
        """Share by which it is slower than the best of the whole space; infinite for nothing."""
        return math.inf if config is None else self.seconds[config] / self.best - 1


@dataclass(kw_only=True)
class Course:
    """After each trial: seconds spent, regret of what would be the answer then. ``ended`` is why it stopped itself."""

    costs: list[float] = field(default_factory=list)
    regrets: list[float] = field(default_factory=list)
    out_of_memory: int = 0
    predicted_not_to_fit: int = 0
    ended: str = ""

    @property
    def num_trials(self) -> int:
        """Trials run."""
        return len(self.costs)

    def trials_to(self, share: float) -> float:
        """Trials until the answer stayed within a share of the best; infinite where it never did."""
        return self._first_staying(share, list(range(1, self.num_trials + 1)))

    def cost_to(self, share: float) -> float:
        """Seconds until then."""
        return self._first_staying(share, self.costs)

    def _first_staying(self, share: float, positions: list[Any]) -> float:
        found = math.inf
        for position, regret in zip(reversed(positions), reversed(self.regrets), strict=True):
            if regret > share:
                break
            found = position
        return found

    def regret_after(self, trials: int) -> float:
        """Regret after so many trials, or at the end where it ended earlier."""
        return self.regrets[min(trials, self.num_trials) - 1] if self.regrets else math.inf

    def regret_at(self, cost: float) -> float:
        """Regret when so many seconds were spent; infinite where nothing was measured by then."""
        done = [regret for spent, regret in zip(self.costs, self.regrets, strict=True) if spent <= cost]
        return done[-1] if done else math.inf


def contest(strategy: Contestant, truth: Truth, seed: int, *, most_trials: int, skips: bool) -> Course:
    """Let a strategy run. With ``skips``, what is predicted not to fit is skipped, as a search with prediction does."""
    sweep, runner = truth.sweep, ReplayRunner(truth.sweep, seed)
    choose = getattr(strategy, "choose", None)
    trials: list[Trial] = []
    ruled_out: set[TrainConfig] = set()
    course = Course()
    spent = 0.0
    while course.num_trials < most_trials:
        history = History(sweep.space, trials, ruled_out=ruled_out)
        config = strategy.propose(history)
        if config is None:
            course.ended = strategy.conclusion
            break
        row = sweep.by_config[config]
        if skips and row.prediction is not None and row.prediction.verdict is Verdict.NO:
            ruled_out.add(config)
            course.predicted_not_to_fit += 1
            continue
        result = runner.answer(row)
        trials.append(
            Trial(
                number=len(trials),
                values=dict(config),
                outcome=result.outcome,
                reason=result.reason,
                measurement=result.measurement,
                wall_seconds=result.wall_seconds,
            )
        )
        spent += result.wall_seconds
        course.out_of_memory += result.outcome is Outcome.OOM
        after = History(sweep.space, trials, ruled_out=ruled_out)
        answer = choose(after) if choose is not None else (None if after.best is None else after.best.config)
        course.costs.append(spent)
        course.regrets.append(truth.regret(answer))
    return course
