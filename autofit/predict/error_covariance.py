"""Covariance of the errors of two predictions: how much being wrong about one configuration says of another.

An error is taken to be the sum of a level, an effect of each knob's value, an effect of each pair of values, a smooth
effect of the micro-batch (on log2), the same for each value, and what is particular to one combination. Each part is an
independent Gaussian with an amplitude of its own, so two configurations are correlated by what they share. With S
shared knob values and g = exp(-(difference of log2 micro-batch)^2 / (2 x 2^2)) the covariance is

    level^2 + knob^2 S + pair^2 S (S - 1) / 2 + size^2 g + knob_size^2 S g + combination^2 [all shared] g
    + regime^2 [both accumulate, or neither]

The search (``driver/surrogate.py``) and the predictions that are shown (``calibration.py``) correct by it alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

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


SECONDS_OFF = Amplitudes(level=0.7, knob=0.20, pair=0.03, size=0.10, knob_size=0.04, combination=0.02, regime=0.02)
"""By how much predicted seconds turn out wrong (logarithms): a device by a factor of two, a knob by 20 %."""


def covariances(
    parts: Amplitudes,
    shared: npt.NDArray[Any],
    apart: npt.NDArray[Any],
    *,
    same: npt.NDArray[Any],
    regime: npt.NDArray[Any],
) -> npt.NDArray[Any]:
    """The formula above, over arrays of one precision that are broadcast to each other.

    ``shared`` counts knob values, ``apart`` is the difference of log2 micro-batch; ``same`` and ``regime`` are 1 where
    the combination, and whether it accumulates, are shared.
    """
    near = np.exp(-0.5 * np.square(apart / SIZE_SCALE))
    of_knobs = parts.level**2 + parts.knob**2 * shared + parts.pair**2 * shared * (shared - 1) / 2
    of_size = parts.size**2 + parts.knob_size**2 * shared + parts.combination**2 * same
    result: npt.NDArray[Any] = of_knobs + of_size * near + parts.regime**2 * regime
    return result
