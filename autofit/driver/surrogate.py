"""What a few measured configurations say of all the others: a Gaussian process that is additive over knobs.

The value at a configuration is the sum of a level, an effect of each knob's value, an effect of each pair of values,
a smooth effect of the micro-batch (on log2), the same for each value, and what is particular to one combination.
Each part is an independent Gaussian with an amplitude of its own, so two configurations are correlated by what they
share. With S shared knob values and g = exp(-(difference of log2 micro-batch)^2 / (2 x 2^2)) the kernel is

    level^2 + knob^2 S + pair^2 S (S - 1) / 2 + size^2 g + knob_size^2 S g + combination^2 [all shared] g
    + regime^2 [both accumulate, or neither]

Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), chapters 2 and 5, has the algebra.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autofit.driver.encoding import EncodedSpace, Numbers

SIZE_SCALE = 2.0
"""Octaves of micro-batch over which its effect changes."""
SCALES = (0.35, 0.7, 1.0, 1.4, 2.0, 3.0)
"""How much larger or smaller than the amplitudes the effects may turn out; chosen by their likelihood."""
SCALE_SPREAD = 0.7
"""Standard deviation of the logarithm of that scale, before anything is measured."""


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


class AdditiveProcess:
    """The process over an encoded space. Kernel columns are kept, so one more observation costs one more column."""

    def __init__(self, encoded: EncodedSpace, amplitudes: Amplitudes, *, learn_scale: bool = True) -> None:
        self._encoded = encoded
        self._amplitudes = amplitudes
        self._learn_scale = learn_scale
        self._columns: dict[int, npt.NDArray[np.float32]] = {}
        shared = len(encoded.knobs)
        self._variance = self._kernel(np.array(float(shared)), np.array(1.0), np.array(True), np.array(True)).item()

    def believe(self, places: list[int], values: list[float], noises: list[float]) -> Belief:
        """After observing ``values`` (with these standard deviations) at ``places``; around their middle, or 0."""
        count = len(self._encoded)
        if not places:
            return Belief(mean=np.zeros(count), deviation=np.full(count, math.sqrt(self._variance)))
        columns = np.stack([self._column(place) for place in places], axis=1).astype(float)
        # In full precision: columns are kept in half of it, and nearly equal rows must not lose what tells them apart.
        between = np.stack([self._kernel_to(place, np.array(places)) for place in places])
        middle = float(np.median(values))
        observed, noise = np.array(values) - middle, np.diag(np.square(noises))
        scale = self._likeliest_scale(between, noise, observed) if self._learn_scale and len(places) > 2 else 1.0
        lower = np.linalg.cholesky(scale**2 * between + noise + 1e-9 * np.eye(len(places)))
        solved = np.linalg.solve(lower, (scale**2 * columns).T)
        mean = np.asarray(solved.T @ np.linalg.solve(lower, observed), dtype=np.float64)
        variance = scale**2 * self._variance - np.einsum("ij,ij->j", solved, solved)
        return Belief(mean=mean + middle, deviation=np.sqrt(np.maximum(variance, 1e-10)))

    def _likeliest_scale(self, between: Numbers, noise: Numbers, observed: Numbers) -> float:
        def log_likelihood(scale: float) -> float:
            lower = np.linalg.cholesky(scale**2 * between + noise + 1e-9 * np.eye(len(observed)))
            white = np.linalg.solve(lower, observed)
            prior = -0.5 * (math.log(scale) / SCALE_SPREAD) ** 2
            return float(-0.5 * white @ white - np.log(np.diag(lower)).sum()) + prior

        return max(SCALES, key=log_likelihood)

    def _column(self, place: int) -> npt.NDArray[np.float32]:
        if place not in self._columns:
            self._columns[place] = self._kernel_to(place, slice(None)).astype(np.float32)
        return self._columns[place]

    def _kernel_to(self, place: int, others: slice | npt.NDArray[np.int64]) -> Numbers:
        """The kernel between one configuration and others."""
        encoded = self._encoded
        shared = (encoded.codes[others] == encoded.codes[place]).sum(axis=1).astype(float)
        apart = encoded.log2_sizes[others] - encoded.log2_sizes[place]
        near = np.exp(-0.5 * np.square(apart / SIZE_SCALE))
        same = encoded.combinations[others] == encoded.combinations[place]
        regime = encoded.accumulates[others] == encoded.accumulates[place]
        return self._kernel(shared, near, same, regime)

    def _kernel(
        self, shared: Numbers, near: Numbers, same: npt.NDArray[np.bool_], regime: npt.NDArray[np.bool_]
    ) -> Numbers:
        parts = self._amplitudes
        return (
            parts.level**2
            + parts.knob**2 * shared
            + parts.pair**2 * shared * (shared - 1) / 2
            + (parts.size**2 + parts.knob_size**2 * shared + parts.combination**2 * same) * near
            + parts.regime**2 * regime
        )
