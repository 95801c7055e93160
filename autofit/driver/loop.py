"""The search: propose, run, store, tell; then run the finalists whole."""

from __future__ import annotations

import time
from collections.abc import Sequence
from enum import Enum

import msgspec

from autofit.device.kinds import kind_of
from autofit.driver.budget import Budget, WholeRun, seconds_to_come
from autofit.driver.crew import Assignment, Crew
from autofit.driver.foresight import Foresight
from autofit.driver.history import History
from autofit.driver.observer import Observer
from autofit.driver.rounds import next_round, rounds_to_come, to_repeat
from autofit.driver.starts import descend, reference_configs
from autofit.driver.strategy import Strategy
from autofit.job.situation import Situation
from autofit.knobs.allocator import EXPANDABLE
from autofit.knobs.recipe import recipe_for
from autofit.knobs.space import SearchSpace
from autofit.knobs.train_config import TrainConfig
from autofit.study.evidence import NO_EVIDENCE
from autofit.study.outcome import Outcome
from autofit.study.prediction import Prediction, Verdict
from autofit.study.store import Study
from autofit.study.trial import Role, Trial
from autofit.trial.protocol import MeasuringPlan
from autofit.units import format_bytes

WORTH_WAITING_FOR = 1.1
"""What is borderline is tried at the end where it is predicted to take at most this many times what the best takes."""
SHAPES_FOR_AN_ALLOCATOR = 100


class Standing(Enum):
    """Reason for which a search does not propose a configuration now, or does though it waited."""

    WAITS = "borderline: it is tried when nothing else is worth it"
    DUE = "it waited, and its turn has come"
    GIVEN_UP = "it waited, and is not worth a trial"
    NO_TIME = "it would have to be compiled first, longer than there is time"
    RULED_OUT = "predicted not to fit"


NOT_NOW = (Standing.WAITS, Standing.GIVEN_UP, Standing.NO_TIME)


class Search:
    """One run of a search over a study, whose trials a ``crew`` runs.

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
        crew: Crew,
        observer: Observer,
        foresight: Foresight | None = None,
        baseline: TrainConfig | None = None,
        began: float | None = None,
    ) -> None:
        """``began`` is the moment (``time.monotonic``) from which the budget is counted; now where it is not given.
        ``baseline`` is what the user trains with now: measured first, whatever is predicted of it, and in the end
        beside the finalists."""
        self._baseline = baseline
        self._foresight = foresight
        self._standing: dict[TrainConfig, Standing] = {}
        self._study = study
        self._situation = situation
        self._kind = kind_of(situation.device)
        self._space = space
        self._strategy = strategy
        self._budget = budget
        self._plan = plan
        self._crew = crew
        self._running = dict(crew.running())
        self._adopted = set(self._running)
        self._observer = observer
        self._trials = list(study.trials())
        self._spent_before = study.spent_seconds
        self._began = time.monotonic() if began is None else began
        self._noted = 0.0
        self._tried_now = False
        self._is_cut_short = False

    def run(self) -> str:
        """Search until nothing is worth trying or the budget is spent; the reason, as a sentence's end.

        KeyboardInterrupt passes through after the running trial was ended; what was measured is stored.
        """
        try:
            reason = self._search_and_confirm()
            # What failed its whole run was the only one that ran: leaner ones have not been looked for yet.
            while self._nothing_is_left_of_what_ran():
                before = len(self._trials)
                reason = self._search_and_confirm()
                if len(self._trials) == before:
                    break
        finally:
            self._crew.close()
            self._note_spending()
        return reason

    def _search_and_confirm(self) -> str:
        reason = self._explore()
        while self._complete():
            reason = self._explore()
        self._confirm()
        return reason

    def _nothing_is_left_of_what_ran(self) -> bool:
        """True if short trials ran, and each of those configurations failed its whole run."""
        ran = any(trial.measurement is not None for trial in self._trials)
        return ran and self._history().best is None and not self._is_cut_short

    @property
    def _spent(self) -> float:
        return self._spent_before + time.monotonic() - self._began

    def _try_baseline(self) -> None:
        """The user's own settings come first."""
        tried = {trial.config for trial in self._trials if trial.outcome not in NO_EVIDENCE}
        if self._baseline is not None and self._baseline not in tried and self._budget.has_time(self._spent):
            role = Role.of(is_baseline=True, is_inside=self._baseline in self._space)
            prediction = self._prediction(self._baseline)
            self._try(self._baseline, Assignment(plan=self._plan, prediction=prediction, role=role))

    def _explore(self) -> str:
        self._try_baseline()
        while True:
            if self._running and not self._crew.is_free:
                self._await_next()
                continue
            if not self._running and not self._crew.is_free and not self._budget.has_time(self._spent):
                return self._budget.is_spent  # nobody is there to run anything
            history = self._history()
            if self._is_cut_short:
                self._await_all()
                return self._budget.is_spent
            compared = self._compared()
            to_confirm = rounds_to_come(compared, self._kind)
            reason = self._budget.reason_to_stop(
                self._spent, compared, to_confirm, self._whole_run, running=len(self._running)
            )
            if reason is not None and self._running:
                self._await_next()
                continue
            if reason is not None:
                if not self._tried_now and self._spent_before:
                    reason += ", which earlier runs of this study took: a larger one goes on where they ended"
                return reason
            config = self._strategy.propose(history) or self._next_late_one(history)
            if config is None and self._running:
                self._await_next()
                continue
            if config is None:
                if self._that_are(Standing.NO_TIME):
                    return "the rest would have to be compiled first, longer than is left of --budget"
                return self._strategy.conclusion
            if recipe_for(config, self._situation).is_compiled and not self._budget.allows_compiling(
                self._spent, history.trials
            ):
                self._standing[config] = Standing.NO_TIME
                continue
            prediction = self._prediction(config)
            if prediction is not None and prediction.verdict is Verdict.NO:
                self._skip(config, prediction)
                continue
            # The reference is tried where it comes, or there is nothing to compare with.
            waits = history.best is not None and self._standing.get(config) is not Standing.DUE
            if prediction is not None and prediction.verdict is Verdict.BORDERLINE and waits:
                self._standing[config] = Standing.WAITS
                continue
            plan = with_plan(self._plan, slower_than_seconds=history.best_seconds)
            self._begin(config, Assignment(plan=plan, prediction=prediction))

    def _prediction(self, config: TrainConfig) -> Prediction | None:
        return None if self._foresight is None else self._foresight.of(config, self._history().trials)

    def _history(self) -> History:
        put_off = set(self._that_are(*NOT_NOW))
        return History(
            self._space, self._trials, put_off, set(self._that_are(Standing.RULED_OUT)), set(self._running.values())
        )

    def _that_are(self, *standings: Standing) -> list[TrainConfig]:
        """Configurations of some standing, in the order in which it was first given."""
        return [config for config, standing in self._standing.items() if standing in standings]

    def _next_late_one(self, history: History) -> TrainConfig | None:
        """The next of what was put off as borderline that may be worth it; with expandable segments where there are."""
        while waiting := self._that_are(Standing.WAITS):
            likely = self._likely_seconds(waiting, history)
            waited = config = waiting[likely.index(min(likely))]
            self._standing[waited] = Standing.GIVEN_UP
            if not self._is_worth_a_late_try(waited, history):
                continue
            if EXPANDABLE in self._space.choices["allocator"]:
                config = waited.replace(allocator=EXPANDABLE)
            if config == waited:
                del self._standing[waited]
            if config in self._space and self._history().outcome(config) is None:
                self._standing[config] = Standing.DUE
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
        self._standing[config] = Standing.RULED_OUT
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

    def _complete(self) -> bool:
        """Try what the finalists are chosen by and is missing; True if there was any: there may be room for more then.

        The reference, and what others slowed: without it fewer may have to be confirmed than was kept for.
        """
        if self._is_cut_short:
            return False
        before = len(self._trials)
        plain = self._missing_reference()
        if plain is not None and self._budget.allows_trial(self._spent, self._history().trials, left_over=1):
            plan = with_plan(self._plan, slower_than_seconds=self._history().best_seconds)
            self._try(plain, Assignment(plan=plan, prediction=self._prediction(plain)))
        self._repeat_disturbed()
        return len(self._trials) > before and not self._is_cut_short

    def _confirm(self) -> None:
        """Run the finalists' whole accumulation in interleaved rounds: what is reported is measured, not composed.

        A round runs as a whole or not at all. Who is a finalist is asked anew before each; what failed is none.
        """
        while not self._is_cut_short:
            compared = self._compared()
            coming = next_round(compared, self._kind)
            if coming is None:
                return
            affordable = self._budget.affordable_round(coming.finalists, self._spent, compared, self._whole_run)
            if not affordable:
                return
            for trial in affordable:
                self._run_whole(trial, coming.number)
                if self._is_cut_short:
                    return

    def _repeat_disturbed(self) -> None:
        """Run again, once, what others slowed while it ran and what might be the fastest without them."""
        while not self._is_cut_short:
            compared = self._compared()
            trial = to_repeat(compared)
            to_confirm = rounds_to_come(compared, self._kind)
            if trial is None or not self._budget.leaves_time(self._spent, compared, to_confirm, self._whole_run):
                return
            self._try(trial.config, Assignment(plan=self._plan, prediction=trial.prediction, role=trial.role))

    def _run_whole(self, trial: Trial, number: int) -> None:
        plan = with_plan(
            self._plan,
            whole=True,
            least_micro_batches=self._whole_run.least_micro_batches,
            patience_seconds=self._whole_run.timed_seconds,
            spare_share=self._kind.spare_share,
        )
        self._try(trial.config, Assignment(plan=plan, prediction=trial.prediction, role=trial.role, round=number))

    def _compared(self) -> list[Trial]:
        """The trials of the space, and those of the baseline."""
        in_space = {trial.number for trial in self._history().trials}
        return [trial for trial in self._trials if trial.number in in_space or trial.is_baseline]

    def _missing_reference(self) -> TrainConfig | None:
        """The reference in the best one's own precision, where the search left it out: speed-ups are over it."""
        history = self._history()
        if history.best is None or self._baseline is not None:
            return None
        precision = history.best.config["precision"]
        same = [config for config in reference_configs(self._space) if config["precision"] == precision]
        untried = (config for start in same for config in descend(history, start))
        config = next((config for config in untried if history.outcome(config) is not Outcome.OOM), None)
        return config if config is not None and history.outcome(config) is None else None

    @property
    def _whole_run(self) -> WholeRun:
        """A caching allocator has to be shown many shapes before it can be said to have room for them all."""
        several_shapes = not self._situation.workload.lengths.all_equal
        return WholeRun(
            timed_seconds=self._kind.round_seconds,
            least_micro_batches=SHAPES_FOR_AN_ALLOCATOR if several_shapes and self._kind.caches_memory else 0,
        )

    def _try(self, config: TrainConfig, assignment: Assignment) -> None:
        """Run a trial while nobody runs another."""
        self._await_all()
        before = len(self._trials)
        # Again where who ran it went away: one that is alone may be what everything is compared with.
        while len(self._trials) == before and not self._is_cut_short and self._may_begin():
            self._begin(config, assignment, alone=True)
            self._await_all()

    def _may_begin(self) -> bool:
        return self._budget.has_time(self._spent) or not self._trials

    def _begin(self, config: TrainConfig, assignment: Assignment, *, alone: bool = False) -> None:
        left = None if self._budget.seconds is None else self._budget.seconds - self._spent
        now = msgspec.structs.replace(assignment, beside=len(self._running), seconds_left=left)
        number = self._crew.begin(config, now, alone=alone)
        self._running[number] = config
        whole = assignment.plan.whole
        self._observer.begun(number, config, whole=whole)
        trials_to_come = self._strategy.trials_to_come
        if trials_to_come is not None:
            compared = self._compared()
            # What runs alone comes after them.
            trials_to_come = 0.0 if alone else min(trials_to_come, self._budget.trials_left(compared))
            rounds = rounds_to_come(compared, self._kind)
            one_after_the_other = trials_to_come / len(self._running)
            self._observer.expects(seconds_to_come(one_after_the_other, compared, rounds, self._whole_run))

    def _await_all(self) -> None:
        while self._running:
            self._await_next()

    def _await_next(self) -> None:
        """Wait for the next trial that ends; or for whatever else changes who runs what."""
        if not self._budget.has_time(self._spent):
            self._crew.withdraw()
        trial = self._crew.next_ended()
        if trial is not None and trial.number in {each.number for each in self._trials}:
            trial = None  # an earlier search's, stored between looking at what runs and at what has ended
        if trial is not None:
            self._note_spending()
            self._trials.append(trial)
            self._tried_now = True
            # What an earlier search began had that one's budget.
            ended_now = trial.outcome is Outcome.INTERRUPTED and trial.number not in self._adopted
            self._is_cut_short = self._is_cut_short or ended_now
        before, self._running = self._running, dict(self._crew.running())
        for number in before.keys() - self._running.keys():
            if trial is None or number != trial.number:
                self._observer.lost(number)
        if trial is not None:
            self._observer.ended(trial, self._trials)

    def _note_spending(self) -> None:
        spent = time.monotonic() - self._began
        self._study.spend(spent - self._noted)
        self._noted = spent


def with_plan(plan: MeasuringPlan, **changes: object) -> MeasuringPlan:
    """A copy of a measuring plan with some fields changed."""
    return msgspec.structs.replace(plan, **changes)
