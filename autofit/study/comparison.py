"""Comparison of two measurements: the ratio of their seconds, over the rounds that both ran where there are any."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from autofit.study.measurement import Measurement


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Ratio of the step seconds of two measurements.

    ``rounds`` counts the interleaved rounds that both ran; over those, ``ratio`` is the median and ``spread`` half of
    what the ratios differ by. With one such round, or none (0: separate single runs, which drift tells apart worst),
    ``spread`` is half the 95 % interval that the runs' own samples give; infinite where they give none.
    """

    ratio: float
    spread: float
    rounds: int
    is_of_short_trials: bool = False

    @property
    def label(self) -> str:
        """Basis of the comparison, for people."""
        if self.rounds == 0:
            return "short trials" if self.is_of_short_trials else "single runs"
        return "1 round" if self.rounds == 1 else f"{self.rounds} rounds"


def compare(first: Measurement, second: Measurement) -> Comparison:
    """Seconds of ``first`` over those of ``second``, over the rounds that both ran where there are any.

    Disturbed rounds count only where there are no others.
    """
    ours = dict(zip(first.rounds, first.round_seconds, strict=True))
    theirs = dict(zip(second.rounds, second.round_seconds, strict=True))
    common = ours.keys() & theirs.keys()
    quiet = common & first.undisturbed_rounds & second.undisturbed_rounds
    ratios = [ours[number] / theirs[number] for number in quiet or common]
    ratio = statistics.median(ratios) if ratios else first.step_seconds / second.step_seconds
    spread = ratio * math.hypot(first.sampling_error, second.sampling_error)
    if len(ratios) > 1:
        spread = (max(ratios) - min(ratios)) / 2
    return Comparison(ratio=ratio, spread=spread, rounds=len(ratios))
