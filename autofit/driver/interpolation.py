"""Interpolation between predictions: the process of ``surrogate.py`` over hundreds of exact values.

A few more are predicted at every proposal, so the Cholesky factor is not made anew but grows by their rows. With L the
factor of the covariances of what is known, S = L^-1 K holds a row over all N configurations for each of them, and

    mean = middle + S^T L^-1 (values - middle),    variance = prior variance - (column sums of S^2)

of which each new row adds its own part.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from autofit.driver.covariance import Belief, Kernel
from autofit.driver.encoding import EncodedSpace, Numbers
from autofit.predict.error_covariance import Amplitudes

EXACTLY = 0.003
"""A prediction is a number without noise; this keeps the algebra stable."""
MOST_BYTES = 48 * 2**20
"""For S. Where that is full, more values are known where they are and say nothing of what lies between them."""


class Interpolation:
    """Beliefs over an encoded space, exact where a value was added; 0 without doubt where there is none at all."""

    def __init__(self, encoded: EncodedSpace, amplitudes: Amplitudes, *, most_bytes: int = MOST_BYTES) -> None:
        count = len(encoded)
        self._kernel = Kernel(encoded, amplitudes)
        self._most_rows = most_bytes // (4 * count)
        self._known: dict[int, float] = {}
        self._places: list[int] = []
        self._inverse: Numbers = np.zeros((0, 0))  # of L
        self._rows: list[npt.NDArray[np.float32]] = []  # of S, as they were added
        self._white = np.zeros((0, 2))  # L^-1 of the values and of ones
        self._projected = np.zeros((count, 2))  # S^T of these
        self._explained = np.zeros(count)

    def add(self, values: dict[int, float]) -> None:
        """Values at places that had none."""
        self._known.update(values)
        new = list(values)[: max(0, self._most_rows - len(self._places))]
        if not new:
            return
        exactly = EXACTLY**2 * np.eye(len(new))
        to_known = self._kernel.between(new, self._places) @ self._inverse.T
        lower = np.linalg.cholesky(self._kernel.between(new, new) + exactly - to_known @ to_known.T)
        inverse = np.linalg.inv(lower)
        columns = np.stack([self._kernel.column(place) for place in new])
        begin = 0
        for rows in self._rows:
            columns -= to_known[:, begin : begin + len(rows)].astype(np.float32) @ rows
            begin += len(rows)
        rows = inverse.astype(np.float32) @ columns
        given = np.stack([[values[place], 1.0] for place in new])
        white = inverse @ (given - to_known @ self._white)
        self._inverse = np.block(
            [[self._inverse, np.zeros((begin, len(new)))], [-inverse @ to_known @ self._inverse, inverse]]
        )
        self._rows.append(rows)
        self._white = np.concatenate([self._white, white])
        self._projected += rows.T @ white.astype(np.float32)
        self._explained += np.einsum("ij,ij->j", rows, rows)
        self._places += new

    def belief(self) -> Belief:
        """Mean and deviation everywhere."""
        if not self._known:
            return Belief(mean=np.zeros_like(self._explained), deviation=np.zeros_like(self._explained))
        middle = float(np.median(list(self._known.values())))
        mean = middle + self._projected[:, 0] - middle * self._projected[:, 1]
        deviation = np.sqrt(np.maximum(self._kernel.variance - self._explained, EXACTLY**2))
        places = list(self._known)
        mean[places] = list(self._known.values())
        deviation[places] = EXACTLY
        return Belief(mean=mean, deviation=deviation)
