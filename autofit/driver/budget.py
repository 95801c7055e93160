"""How much a search may still spend, and what its last trials will cost."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from autofit.measurement import Measurement
from autofit.trials import Trial

FIRST_TRIAL_SECONDS = 10.0
"""A guess for a trial's cost before the first one ended."""
COMPILING_SECONDS = 90.0
"""A guess for a trial that compiles, before one has: 40 to 60 s for a small model on two cores."""
WHOLE_STEPS = 5.5
"""Optimizer steps of a confirmation: two or three of warm-up, three timed."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Wall seconds and trials, over all runs of the same study; None for no limit."""

    seconds: float | None
    trials: int | None

    def reason_to_stop(
        self,
        spent_seconds: float,
        trials: Sequence[Trial],
        to_confirm: Sequence[Trial],
        least_micro_batches: int = 0,
    ) -> str | None:
        """A sentence when another trial would not leave enough for the confirmations, else None.

        ``to_confirm`` has a trial for each run that is still to come; the runs of one configuration count once.
        """
        unconfirmed = {trial.config for trial in to_confirm if not trial.whole}
        if self.trials is not None and num_counted(trials) + len(unconfirmed) >= self.trials:
            return f"the {self.trials} trials of --max-trials are used"
        if self.seconds is not None:
            next_trial = statistics.median(trial.wall_seconds for trial in trials) if trials else FIRST_TRIAL_SECONDS
            last_ones = sum(confirmation_seconds(trial, least_micro_batches) for trial in to_confirm)
            if spent_seconds + next_trial + last_ones > self.seconds and trials:
                return f"the {_minutes(self.seconds)} of --budget are spent"
        return None

    def allows_compiling(self, spent_seconds: float, trials: Sequence[Trial]) -> bool:
        """Whether a trial that compiles first may start: as long as such trials took so far, or a guess."""
        if self.seconds is None:
            return True
        compiled = [trial.wall_seconds for trial in trials if trial.config.get("compile", "off") != "off"]
        return spent_seconds + max(compiled, default=COMPILING_SECONDS) <= self.seconds

    def allows_confirmation(self, spent_seconds: float, num_trials: int) -> bool:
        """Whether a confirmation may still start; time already reserved for it may run over a little."""
        if self.trials is not None and num_trials >= self.trials:
            return False
        return self.seconds is None or spent_seconds < 1.25 * self.seconds


def num_counted(trials: Sequence[Trial]) -> int:
    """How many trials were run, the rounds of one finalist counted once."""
    return sum(not trial.whole for trial in trials) + len({trial.config for trial in trials if trial.whole})


def confirmation_seconds(trial: Trial, least_micro_batches: int = 0) -> float:
    """What running a trial's whole accumulation will take, by its own measurement."""
    measurement = trial.measurement
    assert isinstance(measurement, Measurement)
    around = trial.wall_seconds - sum(window.wall_seconds for window in measurement.windows)
    steps = max(WHOLE_STEPS, least_micro_batches / measurement.accumulation_steps)
    return max(0.0, around) + steps * measurement.step_seconds


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.3g} minutes"
