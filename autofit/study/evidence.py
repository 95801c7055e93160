"""Evidence: what the trials of a study say of each configuration, and how two of them compare."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from autofit.knobs.train_config import KnobValue, TrainConfig
from autofit.study.comparison import Comparison, compare
from autofit.study.measurement import Measurement, longest_start, pooled
from autofit.study.outcome import Outcome
from autofit.study.trial import Trial

LARGEST_TIE = 0.05
"""Times closer than this, and within the noise of both, are called equal."""
NO_EVIDENCE = (Outcome.SKIPPED, Outcome.INTERRUPTED)


class Evidence:
    """The trials by configuration. Only like is compared with like: whole runs of one round, or short trials."""

    def __init__(self, trials: Iterable[Trial]) -> None:
        every = list(trials)
        self.by_config = evidence_by_config(every)
        short = evidence_by_config(trial for trial in every if not trial.whole).values()
        self._short = {trial.config: trial.measurement for trial in short if trial.measurement is not None}
        self.measured = [trial for trial in self.by_config.values() if trial.measurement is not None]
        self._common = max(self.measured, key=lambda trial: len(measurement_of(trial).rounds), default=None)
        self._factors = self._factors_by_precision()

    def against(self, first: Trial, second: Trial) -> Comparison:
        """Seconds of the first over those of the second: in the rounds that both ran whole, else in short trials."""
        whole = compare(measurement_of(first), measurement_of(second))
        ours, theirs = self._short.get(first.config), self._short.get(second.config)
        if whole.rounds or ours is None or theirs is None:
            return whole
        return replace(compare(ours, theirs), is_of_short_trials=True)

    def is_tied(self, trial: Trial, fastest: Trial) -> bool:
        """True if a configuration is as fast as the fastest, as far as the noise lets it be told."""
        if trial is fastest:
            return True
        against = self.against(trial, fastest)
        return against.ratio - 1 <= min(LARGEST_TIE, against.spread)

    def likely_seconds(self, trial: Trial) -> float:
        """Seconds of a whole step, for putting configurations in order.

        Configurations that ran different rounds are compared by way of the one that ran most. Of one that ran short
        only, it is the short trial's estimate, corrected by what whole runs took over the estimates of short trials in
        the same precision: kernels that are made anew for every new shape cost nothing in a short trial, which repeats
        a few shapes.
        """
        own = measurement_of(trial).step_seconds
        if not trial.whole:
            return own * self._factors.get(trial.config["precision"], 1.0)
        assert self._common is not None
        against = compare(measurement_of(trial), measurement_of(self._common))
        return against.ratio * measurement_of(self._common).step_seconds if against.rounds else own

    def _factors_by_precision(self) -> dict[KnobValue, float]:
        """Precision -> how many times its short trial's estimate a whole run took."""
        logs: dict[KnobValue, list[float]] = defaultdict(list)
        for trial in self.measured:
            short = self._short.get(trial.config)
            if trial.whole and short is not None:
                ratio = measurement_of(trial).step_seconds / short.step_seconds
                logs[trial.config["precision"]].append(math.log(ratio))
        return {precision: math.exp(statistics.median(each)) for precision, each in logs.items()}


def evidence_by_config(trials: Iterable[Trial]) -> dict[TrainConfig, Trial]:
    """The evidence per configuration: its whole runs together where there are any, else the last trial.

    A whole run that failed, for whatever reason, says all: what did not get through its own work once is not measured,
    whatever other runs did. Of two short trials, one that was disturbed does not take the place of a quieter one.
    """
    evidence: dict[TrainConfig, Trial] = {}
    rounds: dict[TrainConfig, dict[int, Measurement]] = defaultdict(dict)
    for trial in trials:
        known = evidence.get(trial.config)
        if known is not None and trial.outcome in NO_EVIDENCE:
            continue
        if known is not None and known.whole and known.measurement is None:
            continue
        if known is not None and not trial.whole and _is_more_disturbed(trial, known):
            continue
        if trial.whole and trial.measurement is not None:
            number = len(rounds[trial.config]) if trial.round is None else trial.round
            rounds[trial.config][number] = trial.measurement
            measurement = pooled(rounds[trial.config])
            if known is not None and known.measurement is not None:
                # The first trial compiled, the later ones found it compiled.
                measurement = replace(measurement, warmup=longest_start((known.measurement, measurement)))
            evidence[trial.config] = replace(trial, measurement=measurement)
        elif known is None or trial.whole or not known.whole:
            evidence[trial.config] = trial
    return evidence


def _is_more_disturbed(trial: Trial, known: Trial) -> bool:
    ours, theirs = trial.measurement, known.measurement
    return ours is not None and theirs is not None and ours.is_disturbed and ours.cores_taken > theirs.cores_taken


def measurement_of(trial: Trial) -> Measurement:
    """The measurement of a trial that has one."""
    assert trial.measurement is not None
    return trial.measurement
