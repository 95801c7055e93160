"""Beliefs about all configurations from the few that were measured: a Gaussian process over ``covariance.py``.

Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), chapters 2 and 5, has the algebra.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from autofit.driver.covariance import Belief, Kernel
from autofit.driver.encoding import EncodedSpace, Numbers
from autofit.predict.error_covariance import Amplitudes

SCALES = (0.35, 0.7, 1.0, 1.4, 2.0, 3.0)
"""How much larger or smaller than the amplitudes the effects may turn out; chosen by their likelihood."""
SCALE_SPREAD = 0.7
"""Standard deviation of the logarithm of that scale, before anything is measured."""
REMEMBERED = 4
"""Beliefs that are kept: one proposal asks for the same few again."""


class AdditiveProcess:
    """The process over an encoded space. Kernel columns are kept, so one more observation costs one more column."""

    def __init__(self, encoded: EncodedSpace, amplitudes: Amplitudes) -> None:
        self._count = len(encoded)
        self._kernel = Kernel(encoded, amplitudes)
        self._columns: dict[int, npt.NDArray[np.float32]] = {}
        self._remembered: dict[object, Belief] = {}

    def believe(self, places: Sequence[int], values: Sequence[float], noises: Sequence[float]) -> Belief:
        """After observing ``values`` (with these standard deviations) at ``places``; around their middle, or 0."""
        key = (tuple(places), tuple(values), tuple(noises))
        if key not in self._remembered:
            self._remembered[key] = self._believe(list(places), list(values), list(noises))
            while len(self._remembered) > REMEMBERED:
                del self._remembered[next(iter(self._remembered))]
        return self._remembered[key]

    def _believe(self, places: list[int], values: list[float], noises: list[float]) -> Belief:
        variance = self._kernel.variance
        if not places:
            return Belief(mean=np.zeros(self._count), deviation=np.full(self._count, math.sqrt(variance)))
        # Columns are kept in float32 and everything else is done in float64: in float32, searches without predictions
        # took three times the trials.
        between = self._kernel.between(places, places)
        middle = float(np.median(values))
        observed, noise = np.array(values) - middle, np.diag(np.square(noises)) + 1e-9 * np.eye(len(places))
        scale = _likeliest_scale(between, noise, observed) if len(places) > 2 else 1.0
        lower = np.linalg.cholesky(scale**2 * between + noise)
        columns = np.stack([self._column(place) for place in places]).astype(float)
        solved = (np.linalg.inv(lower) * scale**2) @ columns
        mean = np.linalg.solve(lower, observed) @ solved
        left = scale**2 * variance - np.einsum("ij,ij->j", solved, solved)
        return Belief(mean=mean + middle, deviation=np.sqrt(np.maximum(left, 1e-10)))

    def _column(self, place: int) -> npt.NDArray[np.float32]:
        if place not in self._columns:
            self._columns[place] = self._kernel.column(place)
        return self._columns[place]


def _likeliest_scale(between: Numbers, noise: Numbers, observed: Numbers) -> float:
    def log_likelihood(scale: float) -> float:
        lower = np.linalg.cholesky(scale**2 * between + noise)
        white = np.linalg.solve(lower, observed)
        prior = -0.5 * (math.log(scale) / SCALE_SPREAD) ** 2
        return float(-0.5 * white @ white - np.log(np.diag(lower)).sum()) + prior

    return max(SCALES, key=log_likelihood)
