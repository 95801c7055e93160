"""A space as Optuna's parameters: one for each knob with a choice, and the place of the micro-batch on its ladder.

The accumulation follows from the micro-batch, and a whole number keeps the ladder's order for samplers that use it.
"""

from __future__ import annotations

from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from autofit.driver.encoding import EncodedSpace
from autofit.knobs.space import SearchSpace
from autofit.knobs.train_config import TrainConfig

STEP = "micro_batch_step"


def distributions_of(space: SearchSpace) -> dict[str, BaseDistribution]:
    """Optuna's distributions of the knobs. Invalid combinations are among them: Optuna has no words for those."""
    found: dict[str, BaseDistribution] = {
        name: CategoricalDistribution(values) for name, values in space.choices.items() if len(values) > 1
    }
    if len(space.batch_pairs) > 1:
        found[STEP] = IntDistribution(0, len(space.batch_pairs) - 1)
    return found


def config_of(space: SearchSpace, params: dict[str, Any]) -> TrainConfig:
    """The configuration that parameters mean; it need not be a valid one."""
    size, steps = space.batch_pairs[params.get(STEP, 0)]
    values = {name: params.get(name, choices[0]) for name, choices in space.choices.items()}
    return TrainConfig({"micro_batch_size": size, "accumulation_steps": steps, **values})


def params_of_config(space: SearchSpace, config: TrainConfig) -> dict[str, Any]:
    """The parameters of a configuration."""
    params: dict[str, Any] = {name: config[name] for name, values in space.choices.items() if len(values) > 1}
    if len(space.batch_pairs) > 1:
        params[STEP] = space.batch_pairs.index((config.micro_batch_size, config.accumulation_steps))
    return params


def params_of(encoded: EncodedSpace, place: int) -> dict[str, Any]:
    """The parameters of the configuration at a place."""
    return params_of_config(encoded.space, encoded.config(place))


def place_of(encoded: EncodedSpace, params: dict[str, Any]) -> int | None:
    """Its place; None where it is not a valid configuration."""
    try:
        return encoded.place(config_of(encoded.space, params))
    except KeyError:
        return None
