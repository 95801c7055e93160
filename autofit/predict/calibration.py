"""Calibration by real trials: the bytes by which predictions are short, and the factor by which their times are off.

Memory is corrected by adding. A family (everything but the micro-batch) that was measured is corrected by its own
residuals; others by those of all families together, by less. Time is corrected by multiplying: the logarithm of
measured over predicted seconds is a Gaussian process around 0 over the configurations, with the covariance of
``error_covariance.py``. What one trial with 8-bit AdamW shows therefore corrects others with it, and each by as much
as it shares.
"""

from __future__ import annotations

import math
import operator
import statistics
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from autofit.knobs.train_config import TrainConfig
from autofit.predict.error_covariance import SECONDS_OFF, covariances

OTHERS_COUNT = 0.5
"""How much of the families' common residual in memory is believed of a family that was not measured."""
NOISE = 0.05
"""Standard deviation of one trial's seconds, as a share of them."""


@dataclass
class Calibration:
    """Residuals of the trials so far."""

    _bytes: dict[Hashable, list[float]] = field(default_factory=lambda: defaultdict(list))
    _timed: list[TrainConfig] = field(default_factory=list)
    _log_ratios: list[float] = field(default_factory=list)
    _weights: npt.NDArray[np.float64] | None = None

    def learn(self, config: TrainConfig, *, missing_bytes: float, time_ratio: float | None) -> None:
        """One trial: measured less predicted bytes, and measured over predicted seconds."""
        self._bytes[config.combination()].append(missing_bytes)
        if time_ratio is not None and time_ratio > 0:
            self._timed.append(config)
            self._log_ratios.append(math.log(time_ratio))
            self._weights = None

    @property
    def num_trials(self) -> int:
        """Number of trials it has learned from."""
        return sum(map(len, self._bytes.values()))

    def extra_bytes(self, config: TrainConfig) -> int:
        """Bytes to add to a predicted total."""
        family = config.combination()
        if family in self._bytes:
            return round(statistics.fmean(self._bytes[family]))
        every = [value for values in self._bytes.values() for value in values]
        return round(OTHERS_COUNT * statistics.median(every)) if every else 0

    def time_factor(self, config: TrainConfig) -> float | None:
        """Factor for predicted seconds; None before the first trial."""
        if not self._timed:
            return None
        if self._weights is None:
            between = _between(self._timed, self._timed) + NOISE**2 * np.eye(len(self._timed))
            self._weights = np.linalg.solve(between, np.array(self._log_ratios))
        return math.exp(float((_between([config], self._timed) @ self._weights)[0]))


def _between(first: Sequence[TrainConfig], second: Sequence[TrainConfig]) -> npt.NDArray[np.float64]:
    """(A, B): covariances of the errors of A predictions with those of B others."""
    knobs = [name for name in second[0] if name not in ("micro_batch_size", "accumulation_steps")]

    def parts(configs: Sequence[TrainConfig]) -> tuple[list[list[object]], npt.NDArray[np.float64], list[bool]]:
        sizes = np.log2([float(config.micro_batch_size) for config in configs])
        values: list[list[object]] = [[config[name] for name in knobs] for config in configs]
        return values, sizes, [config.accumulation_steps > 1 for config in configs]

    (ours, our_sizes, we_accumulate), (theirs, their_sizes, they_accumulate) = parts(first), parts(second)
    shared = np.array([[sum(map(operator.eq, one, other)) for other in theirs] for one in ours], dtype=float)
    return covariances(
        SECONDS_OFF,
        shared,
        our_sizes[:, None] - their_sizes,
        same=(shared == len(knobs)).astype(float),
        regime=np.equal.outer(we_accumulate, they_accumulate).astype(float),
    )
