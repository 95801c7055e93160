"""autofit's sampler: what it gains from predictions, and what it does with failures, compiling and other studies."""

from __future__ import annotations

import math
from collections.abc import Sequence

import optuna
import pytest

from autofit.driver.encoding import EncodedSpace
from autofit.driver.observation import Elsewhere, Observation
from autofit.driver.parameters import distributions_of, params_of
from autofit.driver.sampler import AutofitSampler, NothingWorthwhileError
from autofit.knobs.train_config import TrainConfig
from autofit.study.outcome import Outcome
from autofit.study.prediction import Prediction, Verdict
from tests.driver.test_strategy import gpu_space, needed, seconds


class Formula:
    """Predicts from the formulas, or by a factor off; counts what it was asked for."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor
        self.asked = 0

    def plain(self, configs: Sequence[TrainConfig]) -> list[Prediction | None]:
        self.asked += len(configs)
        return [
            Prediction(
                verdict=Verdict.FITS,
                bytes_by_category={"weights": needed(config)},
                live_bytes=needed(config),
                total_bytes=needed(config),
                step_seconds=(seconds(config) * self.factor,) * 2,
            )
            for config in configs
        ]


def ok(config: TrainConfig, factor: float = 1.0) -> Observation:
    return Observation(
        outcome="ok",
        seconds=seconds(config) * factor,
        uncertainty=0.005,
        needed_bytes=needed(config),
        wall_seconds=5.0,
        timed_seconds=3.0,
    )


def test_with_right_predictions_the_best_that_need_not_be_compiled_comes_second() -> None:
    space = gpu_space()
    usable = space.situation.limits.usable_bytes
    encoded, predicts = EncodedSpace(space), Formula(factor=2.0)
    sampler = AutofitSampler(space, predicts)
    start = encoded.place(space.configs[100])
    proposed = encoded.config(sampler.propose({start: ok(encoded.config(start))}))
    fitting = [config for config in space.configs if needed(config) <= usable and config["compile"] == "off"]
    best = min(map(seconds, fitting))
    assert seconds(proposed) <= 1.1 * best
    assert predicts.asked < len(space) / 10


def test_it_is_an_optuna_sampler_that_a_plain_study_can_use() -> None:
    space = gpu_space(effective_batch=4)
    encoded = EncodedSpace(space)
    study = optuna.create_study(sampler=AutofitSampler(space))
    distributions = distributions_of(space)
    first = space.configs[0]
    study.add_trial(
        optuna.trial.create_trial(
            params=params_of(encoded, 0),
            distributions=distributions,
            value=seconds(first),
            user_attrs=ok(first).attributes(),
        )
    )
    asked = study.ask(distributions)
    assert asked.params != params_of(encoded, 0) and set(asked.params) == set(distributions)


def test_a_value_that_failed_wherever_it_was_tried_is_left_alone() -> None:
    space = gpu_space(effective_batch=8)
    encoded = EncodedSpace(space)
    plain = next(config for config in space.configs if config["attention"] == "sdpa" and config["compile"] == "off")
    observations = {encoded.place(plain): ok(plain)}
    flash = [config for config in space.configs if config["attention"] == "flash_attention_2"]
    for config in flash[::400][:4]:
        observations[encoded.place(config)] = Observation(outcome=Outcome.ERROR.value, wall_seconds=3.0)
    sampler = AutofitSampler(space)
    for _ in range(8):
        place = sampler.propose(observations)
        config = encoded.config(place)
        assert config["attention"] != "flash_attention_2"
        observations[place] = ok(config)


def test_what_compiles_waits_until_the_rest_is_known() -> None:
    space = gpu_space(effective_batch=8)
    encoded = EncodedSpace(space)
    start = next(config for config in space.configs if config["compile"] == "off")
    observations = {encoded.place(start): ok(start)}
    sampler, order = AutofitSampler(space, Formula()), []
    for _ in range(12):
        try:
            place = sampler.propose(observations)
        except NothingWorthwhileError:
            break
        config = encoded.config(place)
        order.append(config["compile"])
        observations[place] = ok(config)
    assert order[0] == "off"


def test_other_studies_say_which_values_are_fast_and_count_as_nothing_measured() -> None:
    space = gpu_space(effective_batch=8)
    encoded = EncodedSpace(space)
    start = next(config for config in space.configs if config["attention"] == "sdpa")
    elsewhere = [Elsewhere(config, 7 * seconds(config), "another") for config in space.configs[::97]]
    alone, informed = (AutofitSampler(space, None, known) for known in ((), elsewhere))
    observations = {encoded.place(start): ok(start)}
    first, second = (seconds(encoded.config(sampler.propose(observations))) for sampler in (alone, informed))
    assert second < first
    with_them = informed.log_seconds(observations)
    assert with_them.mean[encoded.place(start)] == pytest.approx(
        alone.log_seconds(observations).mean[encoded.place(start)], abs=0.1
    )


def test_it_ends_when_everything_was_tried() -> None:
    space = gpu_space(effective_batch=1)
    encoded = EncodedSpace(space)
    observations = {place: ok(encoded.config(place)) for place in range(len(space))}
    with pytest.raises(NothingWorthwhileError, match="every configuration"):
        AutofitSampler(space).propose(observations)


def test_an_out_of_memory_makes_what_is_like_it_unlikely_to_fit() -> None:
    space = gpu_space()
    encoded = EncodedSpace(space)
    small = next(config for config in space.configs if config.micro_batch_size == 1 and config["precision"] == "bf16")
    large = space.at_micro_batch(small, 16)
    observations = {
        encoded.place(small): ok(small),
        encoded.place(large): Observation(outcome=Outcome.OOM.value, wall_seconds=1.0),
    }
    believed = AutofitSampler(space).log_bytes(observations)
    assert believed.mean[encoded.place(large)] > believed.mean[encoded.place(small)]
    assert believed.mean[encoded.place(large)] > 0.99 * math.log(space.situation.limits.usable_bytes)
