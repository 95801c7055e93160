"""Confirmation: which configurations run whole effective batches, side by side, and for how many rounds.

The fastest of many single measurements is the luckiest one, so what may be recommended runs again, whole, in
interleaved rounds together with what it is compared with. Only what could change the answer is confirmed: the fastest,
what may be as fast, and the reference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from autofit.device.kind import DeviceKind
from autofit.study.evidence import Evidence, measurement_of
from autofit.study.measurement import Measurement
from autofit.study.ranking import rank
from autofit.study.trial import Trial

MOST_FINALISTS = 3
ROUNDS, MOST_ROUNDS = 3, 6
MOST_REPEATED = 3
LOADED_SECONDS, STEADY = 60.0, 0.01
"""A cool card is faster than a warm one: rounds go on until a minute was timed, or two in a row agree within this."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """The next round: its number, and the evidence of the configurations that run in it, in this order."""

    number: int
    finalists: tuple[Trial, ...]


def finalists(trials: Sequence[Trial]) -> list[Trial]:
    """Evidence of the configurations to confirm: the fastest, those that may be as fast, and the reference.

    The fastest may have only a short trial that was luckier than what ran whole: then it has to run whole, too, beside
    the fastest of those that did.
    """
    ranking = rank(trials)
    measured = [each.trial for each in ranking.ranked if not each.trial.is_outside]
    if not measured:
        return []
    evidence = ranking.evidence
    measured.sort(key=evidence.likely_seconds)
    fastest = measured[0]
    # A tie of one that ran whole with one that did not is told by the short trials of both, which may mislead.
    close = [trial for trial in measured if trial.whole == fastest.whole and evidence.is_tied(trial, fastest)]
    chosen = close[:MOST_FINALISTS]
    if not fastest.whole and ranking.best is not None and ranking.best.is_confirmed:
        chosen.append(ranking.best.trial)
    if ranking.reference is not None and ranking.reference not in chosen:
        chosen.append(ranking.reference)
    return chosen


def to_repeat(trials: Sequence[Trial]) -> Trial | None:
    """A short trial to run again before finalists are chosen: others took so much of the machine that it may mislead.

    Only of what might be the fastest without them, where as many cores as they took are thought to have made it as many
    times longer; the likeliest first, each once, and no more than a few.
    """
    runs = Counter(trial.config for trial in trials if not trial.whole and trial.measurement is not None)
    left = MOST_REPEATED - sum(count > 1 for count in runs.values())
    measured = [trial for trial in Evidence(trials).measured if not trial.is_outside]
    if left <= 0 or not measured:
        return None
    best = min(measurement_of(trial).step_seconds for trial in measured)

    def undisturbed(trial: Trial) -> float:
        return measurement_of(trial).step_seconds / (1 + measurement_of(trial).cores_taken)

    misleading = [
        trial
        for trial in measured
        if not trial.whole
        and runs[trial.config] == 1
        and measurement_of(trial).is_disturbed
        and undisturbed(trial) <= best
    ]
    return min(misleading, key=undisturbed, default=None)


def next_round(trials: Sequence[Trial], kind: DeviceKind) -> Round | None:
    """The round that has to come; None where the finalists are confirmed. Every finalist runs in every round."""
    chosen = finalists(trials)
    if not chosen or _is_confirmed(chosen, kind):
        return None
    numbers = [trial.round for trial in trials if trial.round is not None]
    number = max(numbers, default=-1) + 1
    # Back again in every second round: what the machine drifts by falls on all alike.
    return Round(number=number, finalists=tuple(chosen if number % 2 == 0 else chosen[::-1]))


def rounds_to_come(trials: Sequence[Trial], kind: DeviceKind) -> list[Trial]:
    """Evidence of a finalist for each run that confirming will take, as far as can be known."""
    chosen = finalists(trials)
    if not chosen or _is_confirmed(chosen, kind):
        return []
    if len(chosen) == 1:
        return chosen
    return chosen * max(1, ROUNDS - len(_common_rounds(chosen)))


def _is_confirmed(chosen: Sequence[Trial], kind: DeviceKind) -> bool:
    """Enough rounds that all ran undisturbed and, where warmth slows the device, a minute timed or a steady step."""
    if len(chosen) == 1:
        # Nothing to compare with: it has to get through its whole work, and that once.
        return chosen[0].whole
    if min(len(measurement_of(trial).rounds) for trial in chosen) >= MOST_ROUNDS:
        return True
    common = _common_rounds(chosen)
    if len(common) < ROUNDS:
        return False
    return not kind.slows_down_when_warm or all(_is_steady(measurement_of(trial)) for trial in chosen)


def _common_rounds(chosen: Sequence[Trial]) -> set[int]:
    """Rounds that all of them ran, with nobody disturbing."""
    return set.intersection(*(measurement_of(trial).undisturbed_rounds for trial in chosen))


def _is_steady(measured: Measurement) -> bool:
    last = measured.round_seconds[-2:]
    is_steady = len(last) == 2 and abs(last[0] / last[1] - 1) <= STEADY
    return is_steady or sum(window.wall_seconds for window in measured.windows) >= LOADED_SECONDS
