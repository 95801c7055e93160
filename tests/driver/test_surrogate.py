"""The additive process against functions that are additive."""

from __future__ import annotations

import math

import numpy as np
import pytest

from autofit.driver.encoding import EncodedSpace
from autofit.driver.sampler import SECONDS_UNKNOWN
from autofit.driver.surrogate import AdditiveProcess
from tests.driver.test_strategy import gpu_space, seconds


@pytest.fixture(scope="module")
def encoded() -> EncodedSpace:
    return EncodedSpace(gpu_space(effective_batch=16))


def truth(encoded: EncodedSpace) -> np.ndarray:
    return np.array([math.log(seconds(config)) for config in encoded.space.configs])


def test_what_was_observed_is_believed_as_far_as_its_noise_goes(encoded: EncodedSpace) -> None:
    places, values = [3, 700, 1400], [0.1, -0.4, 0.3]
    sure = AdditiveProcess(encoded, SECONDS_UNKNOWN).believe(places, values, [0.001] * 3)
    assert np.allclose(sure.mean[places], values, atol=0.01)
    assert (sure.deviation[places] < 0.01).all() and sure.deviation.max() > 0.1
    vague = AdditiveProcess(encoded, SECONDS_UNKNOWN).believe(places, values, [1.0] * 3)
    assert abs(vague.mean[3] - 0.1) > 0.01


def test_one_of_each_value_tells_the_whole_space_where_effects_add_up(encoded: EncodedSpace) -> None:
    values = truth(encoded)
    drawn = np.random.default_rng(0).choice(len(encoded), 60, replace=False).tolist()
    belief = AdditiveProcess(encoded, SECONDS_UNKNOWN).believe(drawn, values[drawn].tolist(), [0.005] * len(drawn))
    error = belief.mean - values
    assert np.sqrt(np.mean(error**2)) < 0.05
    # And it knows how wrong it is: about as wrong as it says, not far more.
    assert np.mean(np.abs(error) < 2 * belief.deviation) > 0.9
