"""Calibration by real trials: the bytes by which predictions are short, and the factor by which their times are off.

Memory is corrected by adding, time by multiplying. A family (everything but the micro-batch) that was measured is
corrected by its own residuals; others by those of all families together, in memory by less.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

OTHERS_COUNT = 0.5
"""How much of the families' common residual in memory is believed of a family that was not measured."""


@dataclass
class Calibration:
    """Residuals by family; a family is any hashable thing."""

    _bytes: dict[Hashable, list[float]] = field(default_factory=lambda: defaultdict(list))
    _log_ratios: dict[Hashable, list[float]] = field(default_factory=lambda: defaultdict(list))

    def learn(self, family: Hashable, *, missing_bytes: float, time_ratio: float | None) -> None:
        """One trial: measured less predicted bytes, and measured over predicted seconds."""
        self._bytes[family].append(missing_bytes)
        if time_ratio is not None and time_ratio > 0:
            self._log_ratios[family].append(math.log(time_ratio))

    @property
    def num_trials(self) -> int:
        """Number of trials it has learned from."""
        return sum(map(len, self._bytes.values()))

    def extra_bytes(self, family: Hashable) -> int:
        """Bytes to add to a predicted total."""
        if family in self._bytes:
            return round(statistics.fmean(self._bytes[family]))
        return round(OTHERS_COUNT * statistics.median(_all(self._bytes))) if self._bytes else 0

    def time_factor(self, family: Hashable) -> float | None:
        """Factor for predicted seconds; None before the first trial."""
        if not self._log_ratios:
            return None
        return math.exp(statistics.fmean(self._log_ratios.get(family) or _all(self._log_ratios)))


def _all(by_family: dict[Hashable, list[float]]) -> Sequence[float]:
    return [value for values in by_family.values() for value in values]
