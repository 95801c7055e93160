"""The search: propose, run, store, tell; then run the finalists whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec

from autofit.driver.budget import Budget
from autofit.driver.foresight import Foresight
from autofit.driver.history import History
from autofit.driver.ladder import Strategy
from autofit.driver.observer import Observer
from autofit.outcome import Outcome
from autofit.prediction import Prediction, Verdict
from autofit.ranking import rank
from autofit.recipe import recipe_for
from autofit.situation import Situation
from autofit.space import SearchSpace
from autofit.study import Study
from autofit.train_config import TrainConfig
from autofit.trial.protocol import MeasuringPlan
from autofit.trial.runner import Runner
from autofit.trials import Trial
from autofit.units import format_bytes

MOST_FINALISTS = 3
WORTH_WAITING_FOR = 1.1
"""What is borderline is tried at the end where it is predicted to take at most this many times what the best takes."""
SHAPES_FOR_AN_ALLOCATOR = 100


class Search:
    """One run of a search over a study. ``make_runner`` is called when the first trial has to run.

    With ``foresight``, what is predicted not to fit is stored as skipped and not run, and what is borderline waits
    until nothing else is worth trying.
    """

    def __init__(
        self,
        *,
        study: Study,
        situation: Situation,
        space: SearchSpace,
        strategy: Strategy,
        budget: Budget,
        plan: MeasuringPlan,
        make_runner: Callable[[], Runner],
        observer: Observer,
        foresight: Foresight | None = None,
    ) -> None:
        self._foresight = foresight
        self._late: list[TrainConfig] = []
        self._now_late: set[TrainConfig] = set()
        self._study = study
        self._situation = situation
        self._space = space
        self._strategy = strategy
        self._budget = budget
        self._plan = plan
        self._make_runner = make_runner
        self._observer = observer
        self._runner: Runner | None = None
        self._trials = list(study.trials())
        self._spent_before = study.spent_seconds
        self._began = time.monotonic()
        self._noted = 0.0
        self._no_time: set[TrainConfig] = set()
        self._given_up: set[TrainConfig] = set()
        self._ruled_out: set[TrainConfig] = set()

    def run(self) -> str:
        """Search until nothing is worth trying or the budget is spent; the reason, as a sentence's end.

        KeyboardInterrupt passes through after the running trial was ended; what was measured is stored.
        """
        try:
            reason = self._explore()
            self._confirm()
        finally:
            self._note_spending()
        return reason

    @property
    def _spent(self) -> float:
        return self._spent_before + time.monotonic() - self._began

    def _explore(self) -> str:
        while True:
            history = self._history()
            reason = self._budget.reason_to_stop(
                self._spent, history.trials, finalists(history.trials), self._least_micro_batches
            )
            if reason is not None:
                return reason
            config = self._strategy.propose(history) or self._next_late_one(history)
            if config is None:
                if self._no_time:
                    return "the rest would have to be compiled first, longer than is left of --budget"
                return "no configuration next to the best one is untried"
            if recipe_for(config, self._situation).is_compiled and not self._budget.allows_compiling(
                self._spent, history.trials
            ):
                self._no_time.add(config)
                continue
            prediction = None if self._foresight is None else self._foresight.of(config, history.trials)
            if prediction is not None and prediction.verdict is Verdict.NO:
                self._skip(config, prediction)
                continue
            # The reference is tried where it comes, or there is nothing to compare with.
            waits = history.best is not None and config not in self._now_late
            if prediction is not None and prediction.verdict is Verdict.BORDERLINE and waits:
                self._late.append(config)
                continue
            self._try(config, with_plan(self._plan, slower_than_seconds=history.best_seconds), prediction)

    def _history(self) -> History:
        put_off = self._no_time | self._given_up | set(self._late)
        return History(self._space, self._trials, put_off, self._ruled_out)

    def _next_late_one(self, history: History) -> TrainConfig | None:
        """The next of what was put off as borderline that may be worth it; with expandable segments where there are."""
        while self._late:
            likely = self._likely_seconds(self._late, history)
            config = self._late.pop(likely.index(min(likely)))
            self._given_up.add(config)
            if not self._is_worth_a_late_try(config, history):
                continue
            if "expandable" in self._space.choices["allocator"]:
                config = config.replace(allocator="expandable")
            else:
                self._given_up.discard(config)
            self._now_late.add(config)
            if config in self._space and self._history().outcome(config) is None:
                return config
        return None

    def _is_worth_a_late_try(self, config: TrainConfig, history: History) -> bool:
        """Likely as fast as the best, and not known by trials like it to need more than there is."""
        best = history.best_seconds
        if best is not None and self._likely_seconds([config], history)[0] > WORTH_WAITING_FOR * best:
            return False
        assert self._foresight is not None
        prediction = self._foresight.of(config, history.trials)
        usable = self._situation.limits.usable_bytes
        return prediction is None or not prediction.is_calibrated or prediction.total_bytes <= usable

    def _likely_seconds(self, configs: Sequence[TrainConfig], history: History) -> list[float]:
        assert self._foresight is not None
        return self._foresight.likely_seconds(configs, history.trials)

    def _skip(self, config: TrainConfig, prediction: Prediction) -> None:
        """Store that a configuration was not run, with the bytes that say why; once, however often it is found."""
        self._ruled_out.add(config)
        if any(trial.outcome is Outcome.SKIPPED and trial.config == config for trial in self._trials):
            return
        certain = format_bytes(prediction.certain_bytes)
        usable = format_bytes(self._situation.limits.usable_bytes)
        trial = Trial(
            number=self._study.begin(config),
            values=dict(config),
            outcome=Outcome.SKIPPED,
            reason=f"predicted not to fit: {certain} are needed at once, {usable} can be used",
            prediction=prediction,
        )
        self._study.finish(trial)
        self._trials.append(trial)
        self._observer.ended(trial, self._trials)

    def _confirm(self) -> None:
        """Run the finalists' whole accumulation: what is reported is then measured, not composed."""
        confirmed: set[TrainConfig] = set()
        while True:
            in_space = self._history().trials
            left = [trial for trial in finalists(in_space) if trial.config not in confirmed]
            if not left or not self._budget.allows_confirmation(self._spent, len(in_space)):
                return
            confirmed.add(left[0].config)
            self._try(
                left[0].config,
                with_plan(self._plan, whole=True, least_micro_batches=self._least_micro_batches),
                left[0].prediction,
            )

    @property
    def _least_micro_batches(self) -> int:
        """A caching allocator has to be shown many shapes before it can be said to have room for them all."""
        several_shapes = not self._situation.workload.lengths.all_equal
        return SHAPES_FOR_AN_ALLOCATOR if several_shapes and self._situation.device.kind != "cpu" else 0

    def _try(self, config: TrainConfig, plan: MeasuringPlan, prediction: Prediction | None = None) -> None:
        if self._runner is None:
            self._runner = self._make_runner()
        number = self._study.begin(config)
        self._observer.begun(number, config, whole=plan.whole)
        try:
            result = self._runner.run(recipe_for(config, self._situation), plan, f"trial-{number:04d}")
        except BaseException:
            self._study.give_up(number)
            raise
        trial = Trial(
            number=number,
            values=dict(config),
            outcome=result.outcome,
            reason=result.reason,
            measurement=result.measurement,
            whole=plan.whole,
            log_path=result.log_path,
            wall_seconds=result.wall_seconds,
            notes=result.notes,
            prediction=prediction,
        )
        self._study.finish(trial)
        self._note_spending()
        self._trials.append(trial)
        self._observer.ended(trial, self._trials)

    def _note_spending(self) -> None:
        spent = time.monotonic() - self._began
        self._study.spend(spent - self._noted)
        self._noted = spent


def finalists(trials: Sequence[Trial]) -> list[Trial]:
    """About to be reported and measured once only: the first, those tied with it, the reference.

    They run again, back to back: a machine that others use drifts by more than knobs differ, and the fastest
    of many single measurements is the luckiest one.
    """
    ranking = rank(trials)
    if ranking.best is None:
        return []
    chosen = [ranked.trial for ranked in ranking.ranked if ranked.tied_with_first][:MOST_FINALISTS]
    if ranking.reference is not None and ranking.reference not in chosen:
        chosen.append(ranking.reference)
    return [trial for trial in chosen if not trial.whole]


def with_plan(plan: MeasuringPlan, **changes: object) -> MeasuringPlan:
    """A copy of a measuring plan with some fields changed."""
    return msgspec.structs.replace(plan, **changes)
