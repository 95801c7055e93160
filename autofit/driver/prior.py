"""Beliefs about a space's configurations before they are run: predictions, and interpolation between them.

Predicting a configuration can cost a trace, so only some are predicted: those that differ from a start in one knob or
in the micro-batch, and later those that a sampler looks at closely. An additive process over these says the rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from autofit.driver.covariance import Belief
from autofit.driver.encoding import EncodedSpace
from autofit.driver.interpolation import Interpolation
from autofit.knobs.train_config import TrainConfig
from autofit.predict.error_covariance import Amplitudes
from autofit.study.prediction import Prediction

# Of logarithms: what precision, checkpointing or a layout does is often tens of percent, a micro-batch doubles.
SECONDS_BETWEEN = Amplitudes(level=2.0, knob=0.4, pair=0.06, size=0.4, knob_size=0.1, combination=0.03, regime=0.05)
BYTES_BETWEEN = Amplitudes(level=2.0, knob=0.4, pair=0.06, size=1.0, knob_size=0.2, combination=0.03, regime=0.1)


class Predicts(Protocol):
    """Says what is predicted, before anything a search has measured corrects it."""

    def plain(self, configs: Sequence[TrainConfig]) -> list[Prediction | None]:
        """For each configuration; None where nothing is known."""


class Prior:
    """Beliefs over log seconds of a step and log bytes. Without ``predicts`` every configuration is believed alike."""

    def __init__(self, encoded: EncodedSpace, predicts: Predicts | None) -> None:
        self._encoded = encoded
        self._predicts = predicts
        self._seconds = Interpolation(encoded, SECONDS_BETWEEN)
        self._bytes = Interpolation(encoded, BYTES_BETWEEN)
        self._known: dict[int, Prediction | None] = {}
        self._beliefs: tuple[Belief, Belief] | None = None

    @property
    def is_informed(self) -> bool:
        """True if anything was predicted."""
        return any(prediction is not None for prediction in self._known.values())

    def predict(self, places: Sequence[int]) -> bool:
        """See to it that these are predicted; whether that brought something new."""
        missing = [place for place in dict.fromkeys(places) if place not in self._known]
        if self._predicts is None or not missing:
            return False
        found = self._predicts.plain([self._encoded.config(place) for place in missing])
        new = dict(zip(missing, found, strict=True))
        self._known.update(new)
        self._seconds.add(
            {
                place: math.log(each.likely_seconds)
                for place, each in new.items()
                if each is not None and each.likely_seconds
            }
        )
        self._bytes.add(
            {
                place: math.log(each.total_bytes)
                for place, each in new.items()
                if each is not None and each.total_bytes > 0
            }
        )
        self._beliefs = None
        return any(each is not None for each in found)

    def predict_around(self, start: int) -> None:
        """The start, its ladder of micro-batches, and every change of one knob that is valid."""
        encoded = self._encoded
        same_combination = encoded.combinations == encoded.combinations[start]
        apart = (encoded.codes != encoded.codes[start]).sum(axis=1)
        one_apart = (apart == 1) & (encoded.sizes == encoded.sizes[start])
        places = [start, *np.flatnonzero(same_combination), *np.flatnonzero(one_apart)]
        # A value that no single change reaches is shown by the nearest configuration that has it.
        for knob in range(len(encoded.knobs)):
            for value in np.unique(encoded.codes[:, knob]):
                having = np.flatnonzero((encoded.codes[:, knob] == value) & (encoded.sizes == encoded.sizes[start]))
                if len(having) and apart[having].min() > 1:
                    places.append(having[apart[having].argmin()])
        self.predict([int(place) for place in places])

    def beliefs(self) -> tuple[Belief, Belief]:
        """Log seconds and log bytes; mean 0 and deviation 0 where there are no predictions at all."""
        if self._beliefs is None:
            self._beliefs = self._seconds.belief(), self._bytes.belief()
        return self._beliefs
