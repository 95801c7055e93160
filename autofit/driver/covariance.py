"""Covariances over an encoded space: the kernel of a Gaussian process over the errors of predictions.

The formula, and why it has this form, are in ``predict/error_covariance.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autofit.driver.encoding import EncodedSpace, Numbers
from autofit.predict.error_covariance import Amplitudes, covariances


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
        column = covariances(
            self._amplitudes,
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
        return covariances(
            self._amplitudes,
            (encoded.codes[these][:, None] == encoded.codes[those]).sum(axis=2).astype(float),
            encoded.log2_sizes[these][:, None] - encoded.log2_sizes[those],
            same=(encoded.combinations[these][:, None] == encoded.combinations[those]).astype(float),
            regime=(encoded.accumulates[these][:, None] == encoded.accumulates[those]).astype(float),
        )
