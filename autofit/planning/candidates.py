"""Candidates of a plan for a card: a few values of each knob, every split of the batch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from autofit.knobs import KNOBS, knob
from autofit.knobs.activation_checkpointing import NAME as CHECKPOINTING
from autofit.knobs.attention import VARLEN
from autofit.knobs.batch_layout import FLATTENED
from autofit.knobs.numerics import Numerics
from autofit.knobs.optimizer import SMALLER_STATE
from autofit.knobs.parallelism import NAME as PARALLELISM
from autofit.knobs.parallelism import is_sharded
from autofit.knobs.precision import PURE_BF16
from autofit.knobs.space import SearchSpace
from autofit.knobs.train_config import KnobValue, TrainConfig
from autofit.study.ranking import LARGEST_REFERENCE_MICRO_BATCH

FIRST_RUNGS = ("off", "every_layer")
LADDER_BETWEEN = ("every_2nd", "every_4th")


def candidates_of(space: SearchSpace, rungs: Sequence[str]) -> list[TrainConfig]:
    """Configurations worth planning, with these rungs of the checkpointing ladder."""
    choices: dict[str, list[KnobValue]] = {}
    for row in KNOBS:
        allowed = space.choices[row.name]
        choices[row.name] = [value for value in row.planned if value in allowed] or list(allowed[:1])
    # One precision of autocast is enough; weights in 16 bits where they are allowed are another matter.
    precision = knob("precision")
    first, *_ = choices["precision"]
    pure = [each for each in space.choices["precision"] if precision.choice(each).numerics is Numerics.PURE]
    choices["precision"] = list(dict.fromkeys([first, *pure]))
    choices["attention"] = choices["attention"][:1]
    allowed = space.choices[CHECKPOINTING]
    choices[CHECKPOINTING] = [rung for rung in rungs if rung in allowed] or list(allowed[:1])
    configs = [
        TrainConfig(
            {
                "micro_batch_size": micro_batch_size,
                "accumulation_steps": accumulation_steps,
                **dict(zip(choices, values, strict=True)),
            }
        )
        for values in itertools.product(*choices.values())
        for micro_batch_size, accumulation_steps in space.batch_pairs
    ]
    # A flattened row needs an attention that keeps to its samples.
    varlen = next((each for each in VARLEN if each in space.choices["attention"]), None)
    configs = [
        config.replace(attention=varlen) if config["batch_layout"] == FLATTENED and varlen is not None else config
        for config in configs
    ]
    return [config for config in configs if config in space]


def reference_of(space: SearchSpace) -> TrainConfig:
    """The values that are fixed, and of the others what is worth planning first, at the reference's micro-batch."""
    candidates = candidates_of(space, FIRST_RUNGS[:1]) or [space.configs[0]]
    near = [config for config in candidates if config.micro_batch_size <= LARGEST_REFERENCE_MICRO_BATCH]
    return max(near or candidates[:1], key=lambda config: config.micro_batch_size)


def leanest_of(space: SearchSpace) -> list[TrainConfig]:
    """The least of memory that is planned: smallest micro-batch, every layer checkpointed, cut into parts, least state.

    Where weights are cut into parts, also without accumulation, which keeps whole gradients until its last micro-step.
    """
    lean = candidates_of(space, FIRST_RUNGS[1:]) or candidates_of(space, FIRST_RUNGS[:1])
    smallest = {"precision": PURE_BF16, "optimizer": SMALLER_STATE}

    def size(config: TrainConfig) -> tuple[int, ...]:
        others = (config[name] != value for name, value in smallest.items())
        return (config.micro_batch_size, not is_sharded(config[PARALLELISM]), *others)

    if not lean:
        return []
    found = [min(lean, key=size)]
    if is_sharded(found[0][PARALLELISM]):
        same = (each for each in lean if each.accumulation_steps == 1 and each.combination() == found[0].combination())
        found += [each for each in same if each not in found]
    return found
