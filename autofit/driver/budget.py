"""The budget of a search: time and trials that are left, and the cost of the confirmations to come."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from autofit.study.evidence import measurement_of
from autofit.study.ranking import rank
from autofit.study.trial import Trial
from autofit.units import counted

FIRST_TRIAL_SECONDS = 10.0
"""A guess for a trial's cost before the first one ended."""
COMPILING_SECONDS = 60.0
"""A guess for compiling, before a trial has: 40 to 60 s for a small model on two cores."""
COMPILING_AT_MOST = 1.5
"""Times the guess, where a trial must not begin what it cannot end."""
CONFIRMING_SHARE = 1 / 3
"""Of the budget, at most: a search that confirms more than it looks has seen too little to confirm."""
WHOLE_STEPS = 5.5
"""Optimizer steps of a confirmation: two or three of warm-up, three timed."""


@dataclass(frozen=True, kw_only=True)
class WholeRun:
    """Least extent of a whole run: timed seconds, and micro-batches of different shapes."""

    timed_seconds: float = 0.0
    least_micro_batches: int = 0


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Wall seconds and trials, over all runs of the same study; None for no limit."""

    seconds: float | None
    trials: int | None

    @property
    def is_spent(self) -> str:
        """The end of a sentence: why a search stops when its time is up."""
        assert self.seconds is not None
        return f"the {_minutes(self.seconds)} of --budget are spent"

    def has_time(self, spent_seconds: float) -> bool:
        """True if any of the time is left."""
        return self.seconds is None or spent_seconds < self.seconds

    def reason_to_stop(
        self,
        spent_seconds: float,
        trials: Sequence[Trial],
        to_confirm: Sequence[Trial],
        whole_run: WholeRun | None = None,
        *,
        running: int = 0,
    ) -> str | None:
        """A sentence when another trial beside those ``running`` would not leave enough for the confirmations, or None.

        ``to_confirm`` has evidence for each run that is still to come; the runs of one configuration count once.
        At most a third of the budget is kept for them.
        """
        unconfirmed = {trial.config for trial in to_confirm if not trial.whole}
        if self.trials is not None and num_counted(trials) + running + len(unconfirmed) >= self.trials:
            return f"--max-trials allows {counted(self.trials, 'trial')}"
        if trials and not self.leaves_time(spent_seconds, trials, to_confirm, whole_run):
            return self.is_spent
        return None

    def leaves_time(
        self,
        spent_seconds: float,
        trials: Sequence[Trial],
        to_confirm: Sequence[Trial],
        whole_run: WholeRun | None = None,
    ) -> bool:
        """True if one more short trial leaves what is kept for the confirmations."""
        if self.seconds is None:
            return True
        wanted = sum(confirmation_seconds(trial, whole_run) for trial in to_confirm)
        kept = min(wanted, CONFIRMING_SHARE * self.seconds)
        return spent_seconds + _usual_seconds(trials) + kept <= self.seconds

    def trials_left(self, trials: Sequence[Trial]) -> float:
        """Number of trials that ``--max-trials`` leaves; infinite without it."""
        return math.inf if self.trials is None else max(0, self.trials - num_counted(trials))

    def allows_compiling(self, spent_seconds: float, trials: Sequence[Trial]) -> bool:
        """True if a trial that compiles first may start: as long as such trials took so far, or a guess."""
        if self.seconds is None:
            return True
        compiled = [trial.wall_seconds for trial in trials if trial.config.get("compile", "off") != "off"]
        return spent_seconds + max(compiled, default=COMPILING_AT_MOST * COMPILING_SECONDS) <= self.seconds

    def allows_trial(self, spent_seconds: float, trials: Sequence[Trial], left_over: int = 0) -> bool:
        """True if one more short trial may start, as long as they usually take, and ``left_over`` after it."""
        if self.trials is not None and num_counted(trials) + left_over >= self.trials:
            return False
        return self.seconds is None or spent_seconds + _usual_seconds(trials) <= self.seconds

    def affordable_round(
        self,
        finalists: Sequence[Trial],
        spent_seconds: float,
        trials: Sequence[Trial],
        whole_run: WholeRun | None = None,
    ) -> tuple[Trial, ...]:
        """All of ``finalists`` where a round of them is within the budget, and confirming within its third of it.

        Else the likely fastest, where it has not run whole: beside the best that has, or alone. A recommendation has to
        run whole once, and what may be faster than it should.
        """
        more_trials = math.inf if self.trials is None else self.trials - num_counted(trials)
        left = math.inf if self.seconds is None else self.seconds - spent_seconds
        confirming = sum(trial.wall_seconds for trial in trials if trial.whole)
        share_left = math.inf if self.seconds is None else CONFIRMING_SHARE * self.seconds - confirming

        def costs(chosen: Sequence[Trial]) -> tuple[int, float]:
            """Trials that count, and seconds."""
            seconds = sum(confirmation_seconds(trial, whole_run) for trial in chosen)
            return len({trial.config for trial in chosen if not trial.whole}), seconds

        counted, seconds = costs(finalists)
        if counted <= more_trials and seconds <= min(left, share_left):
            return tuple(finalists)
        ranking = rank(trials)
        inside = [trial for trial in finalists if not trial.is_outside]
        if ranking.best is None or not inside:
            return ()
        fastest = min(inside, key=ranking.evidence.likely_seconds)
        if fastest.whole:
            return ()
        smaller = [(fastest, ranking.best.trial)] if ranking.best.is_confirmed else []
        for chosen in (*smaller, (fastest,)):
            counted, seconds = costs(chosen)
            if counted <= more_trials and seconds <= left:
                return chosen
        return ()


def num_counted(trials: Sequence[Trial]) -> int:
    """Number of trials that were run: short ones, and whole ones, of one configuration count once each."""
    return len({(trial.config, trial.whole) for trial in trials})


def confirmation_seconds(trial: Trial, whole_run: WholeRun | None = None) -> float:
    """Seconds that one whole run of a configuration will take, by its own measurement: ``trial`` is its evidence."""
    if trial.whole:
        return trial.wall_seconds
    whole_run = whole_run or WholeRun()
    measurement = measurement_of(trial)
    around = max(0.0, trial.wall_seconds - sum(window.wall_seconds for window in measurement.windows))
    steps = max(WHOLE_STEPS, whole_run.least_micro_batches / measurement.accumulation_steps)
    return around + max(steps * measurement.step_seconds, whole_run.timed_seconds)


def seconds_to_come(
    trials_to_come: float, trials: Sequence[Trial], to_confirm: Sequence[Trial], whole_run: WholeRun | None = None
) -> float:
    """Seconds of so many short trials more, as long as they usually took, and of the confirmations to come."""
    confirming = sum(confirmation_seconds(trial, whole_run) for trial in to_confirm)
    return trials_to_come * _usual_seconds(trials) + confirming


def _usual_seconds(trials: Sequence[Trial]) -> float:
    """Seconds that a short trial usually takes."""
    return statistics.median([trial.wall_seconds for trial in trials if not trial.whole] or [FIRST_TRIAL_SECONDS])


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.3g} minutes"
