"""Calibration: what trials so far say of the bytes and seconds of others."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from autofit.knobs.train_config import TrainConfig
from autofit.predict.calibration import Calibration
from tests.doubles import make_config


def test_a_familys_own_residuals_count_for_it_and_half_of_them_for_others() -> None:
    calibration, one, other = Calibration(), make_config(), make_config(attention="eager")
    assert calibration.extra_bytes(one) == 0 and calibration.time_factor(one) is None
    calibration.learn(one, missing_bytes=100, time_ratio=2.0)
    calibration.learn(one.replace(micro_batch_size=4, accumulation_steps=8), missing_bytes=300, time_ratio=2.0)
    assert calibration.extra_bytes(one) == 200
    assert calibration.extra_bytes(other) == 100
    assert calibration.num_trials == 2


def test_a_trial_says_most_of_its_own_time_and_the_less_of_others_the_less_they_share() -> None:
    calibration = Calibration()
    trial = make_config(optimizer="adamw_8bit")
    calibration.learn(trial, missing_bytes=0, time_ratio=2.0)
    like_it = make_config(optimizer="adamw_8bit", attention="eager")
    unlike = make_config(precision="bf16", attention="eager", activation_checkpointing="every_layer")
    factors = [calibration.time_factor(config) for config in (trial, like_it, unlike)]
    assert factors[0] == pytest.approx(2.0, rel=0.01)
    assert 2.0 > factors[0] > factors[1] > factors[2] > 1.0  # type: ignore[operator]


def test_a_knob_that_is_always_predicted_too_fast_is_corrected_where_it_was_never_measured() -> None:
    """Errors that add up over knobs, as they mostly do: a third of the space tells the rest of it."""
    effects = {"eager": 0.3, "adamw_8bit": 0.4, "every_layer": -0.2, "bf16": 0.25}
    configs = [
        make_config(
            attention=attention,
            optimizer=optimizer,
            activation_checkpointing=checkpointing,
            precision=precision,
            micro_batch_size=size,
            accumulation_steps=32 // size,
        )
        for attention in ("sdpa", "eager")
        for optimizer in ("adamw_torch_fused", "adamw_8bit")
        for checkpointing in ("off", "every_layer")
        for precision in ("fp32", "bf16")
        for size in (2, 8)
    ]

    def error(config: TrainConfig) -> float:
        return 0.1 + sum(effects.get(str(value), 0.0) for value in dict(config).values())

    random.Random(1).shuffle(configs)
    calibration = Calibration()
    for config in configs[:11]:
        calibration.learn(config, missing_bytes=0, time_ratio=math.exp(error(config)))
    rest = configs[11:]
    left = [abs(math.log(calibration.time_factor(config) or 1.0) - error(config)) for config in rest]
    assert statistics.median(left) < 0.25 * statistics.median(abs(error(config)) for config in rest)
