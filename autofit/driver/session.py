"""A search over an opened study, from the space to the recommendation, whatever the job's workers run."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from autofit.driver.budget import Budget
from autofit.driver.crew import Crew, Single
from autofit.driver.explanation import neighbours_of
from autofit.driver.foresight import Foresight
from autofit.driver.loop import Search
from autofit.driver.nothing_fits import least_need
from autofit.driver.observation import Elsewhere
from autofit.driver.observer import Observer
from autofit.driver.strategy import make_strategy
from autofit.errors import AutofitError, NothingFitsError
from autofit.job.situation import Situation
from autofit.knobs.space import SearchSpace
from autofit.knobs.train_config import TrainConfig
from autofit.predict.predictor import Predictor
from autofit.study.ranking import rank
from autofit.study.store import Study, measured_elsewhere
from autofit.trial.protocol import MeasuringPlan
from autofit.trial.runner import ProcessRunner


class JobWorkers(Protocol):
    """Everything that a job's workers are asked for in a search."""

    def runner(self, situation: Situation) -> ProcessRunner:
        """Runs trials."""

    def predictor(self, situation: Situation) -> Predictor:
        """Predictions for the present device."""


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """Budget, seed and sampler of a search. ``began`` (``time.monotonic``) is when the budget begins to count.

    ``predict`` traces steps first, so that what cannot fit is not run. ``sampler`` proposes what to try.
    """

    budget: Budget
    began: float
    deadline: float | None
    seed: int = 0
    predict: bool = True
    sampler: str = "autofit"


def run_search(
    study: Study,
    situation: Situation,
    space: SearchSpace,
    workers: JobWorkers,
    plan: SearchPlan,
    watcher: Observer,
    baseline: TrainConfig | None = None,
    crew: Crew | None = None,
) -> str:
    """Search until nothing is worth trying or the budget is spent; the reason, as a sentence's end.

    ``baseline`` is what the user trains with now. ``crew`` runs the trials; the workers, one after the other, where it
    is not given. Raises NothingFitsError where no configuration could be run.
    """
    foresight = Foresight(lambda: workers.predictor(situation), watcher.say) if plan.predict else None
    strategy = make_strategy(
        plan.sampler,
        space,
        predicts=foresight,
        likely_seconds=None if foresight is None else lambda configs: foresight.likely_seconds(configs, ()),
        elsewhere=[Elsewhere(*each) for each in measured_elsewhere(study)],
        seed=plan.seed,
    )
    measuring = MeasuringPlan(seed=plan.seed)
    stopped = Search(
        study=study,
        situation=situation,
        space=space,
        strategy=strategy,
        budget=plan.budget,
        plan=measuring,
        crew=crew or Single(study, situation, lambda: workers.runner(situation)),
        observer=watcher,
        foresight=foresight,
        baseline=baseline,
        began=plan.began,
    ).run()
    study.keep_stopped(stopped)
    if crew is not None and not study.trials():
        raise AutofitError("Nothing was tried: nobody was there to run trials before the budget was spent.")
    best = rank(study.trials()).best
    if best is None:
        raise NothingFitsError(least_need(workers, situation, space, study.trials(), measuring, stopped=stopped))
    has_time = plan.deadline is None or time.monotonic() < plan.deadline
    if foresight is not None and best.trial.config in space and has_time:
        nearby = [best.trial.config, *neighbours_of(space, best.trial.config)]
        study.keep_predicted(foresight.expected(nearby))
    return stopped
