"""Covariance of two configurations: the kernel of a Gaussian process that is additive over knobs.

The value at a configuration is the sum of a level, an effect of each knob's value, an effect of each pair of values,
a smooth effect of the micro-batch (on log2), the same for each value, and what is particular to one combination.
Each part is an independent Gaussian with an amplitude of its own, so two configurations are correlated by what they
share. With S shared knob values and g = exp(-(difference of log2 micro-batch)^2 / (2 x 2^2)) the kernel is

    level^2 + knob^2 S + pair^2 S (S - 1) / 2 + size^2 g + knob_size^2 S g + combination^2 [all shared] g
    + regime^2 [both accumulate, or neither]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autofit.driver.encoding import EncodedSpace, Numbers

_Array = npt.NDArray[Any]

SIZE_SCALE = 2.0
"""Octaves of micro-batch over which its effect changes."""


@dataclass(frozen=True, kw_only=True)
class Amplitudes:
    """Standard deviations of the parts, in units of the modelled value."""

    level: float
    knob: float
    pair: float
    size: float
    knob_size: float
    combination: float
    regime: float


@dataclass(frozen=True, kw_only=True)
class Belief:
    """Mean and standard deviation at each of the N configurations."""

    mean: Numbers
    deviation: Numbers


class Kernel:
    """Covariances over an encoded space of N configurations, which are C combinations times P micro-batches."""

    def __init__(self, encoded: EncodedSpace, amplitudes: Amplitudes) -> None:
        self._encoded = encoded
        self._amplitudes = amplitudes
        pairs = self._pairs = len(encoded.space.batch_pairs)
        # One of each: what a combination's micro-batches share, and what those of one micro-batch share.
        self._codes = encoded.codes[::pairs]
        self._log2_sizes, self._accumulates = encoded.log2_sizes[:pairs], encoded.accumulates[:pairs]
        self.variance = float(self.between([0], [0])[0, 0])

    def column(self, place: int) -> npt.NDArray[np.float32]:
        """(N,): the covariance of one configuration with every other, in float32 for the sake of memory."""
        combination, pair = divmod(place, self._pairs)
        shared = (self._codes == self._codes[combination]).sum(axis=1)
        column = self._covariances(
            shared[:, None].astype(np.float32),
            (self._log2_sizes - self._log2_sizes[pair]).astype(np.float32),
            same=(shared == self._codes.shape[1])[:, None].astype(np.float32),
            regime=(self._accumulates == self._accumulates[pair]).astype(np.float32),
        )
        return column.reshape(-1)

    def between(self, places: Sequence[int], others: Sequence[int]) -> Numbers:
        """(A, B): covariances of A configurations with B others."""
        encoded = self._encoded
        these, those = np.array(places, dtype=np.int64), np.array(others, dtype=np.int64)
        return self._covariances(
            (encoded.codes[these][:, None] == encoded.codes[those]).sum(axis=2).astype(float),
            encoded.log2_sizes[these][:, None] - encoded.log2_sizes[those],
            same=(encoded.combinations[these][:, None] == encoded.combinations[those]).astype(float),
            regime=(encoded.accumulates[these][:, None] == encoded.accumulates[those]).astype(float),
        )

    def _covariances(self, shared: _Array, apart: _Array, *, same: _Array, regime: _Array) -> _Array:
        """The formula above, over arrays of one precision that are broadcast to each other."""
        parts = self._amplitudes
        near = np.exp(-0.5 * np.square(apart / SIZE_SCALE))
        of_knobs = parts.level**2 + parts.knob**2 * shared + parts.pair**2 * shared * (shared - 1) / 2
        of_size = parts.size**2 + parts.knob_size**2 * shared + parts.combination**2 * same
        covariances: _Array = of_knobs + of_size * near + parts.regime**2 * regime
        return covariances
