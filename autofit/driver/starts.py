"""First configurations of a search: the reference, and where it does not fit, leaner ones down to the leanest.

The reference is TrainingArguments' defaults at a micro-batch of up to 8, first in the precision that is predicted to be
fastest. Where that does not fit, the next smaller step of the divisor ladder; where none does, the same with every
layer checkpointed, with the model cut into parts, with smaller optimizer state, and in the end all that saves at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from autofit.device.kinds import kind_of
from autofit.driver.history import History
from autofit.knobs import KNOBS
from autofit.knobs.activation_checkpointing import EVERY_LAYER
from autofit.knobs.activation_checkpointing import NAME as CHECKPOINTING
from autofit.knobs.optimizer import SMALLER_STATE
from autofit.knobs.parallelism import IN_PARTS, ON_HOST, ZERO2
from autofit.knobs.parallelism import NAME as PARALLELISM
from autofit.knobs.precision import FULL
from autofit.knobs.space import SearchSpace
from autofit.knobs.train_config import KnobValue, TrainConfig
from autofit.study.ranking import LARGEST_REFERENCE_MICRO_BATCH

PARTS = (*IN_PARTS, ZERO2)
"""Ways of cutting the model, what saves most first; ZeRO-2 keeps the weights whole."""

Change = dict[str, KnobValue]
LikelySeconds = Callable[[Sequence[TrainConfig]], list[float]]


def next_start(history: History, likely_seconds: LikelySeconds | None = None) -> TrainConfig | None:
    """The next configuration to try while none was measured; None where one was, nothing is left, or one is running."""
    if history.best is not None or history.running:
        return None
    references = reference_configs(history.space)
    if likely_seconds is not None and len(references) > 1:
        likely = likely_seconds(references)
        references = [each for _, each in sorted(zip(likely, references, strict=True), key=lambda pair: pair[0])]
    candidates = _starts(history, references)
    return next((each for each in candidates if each in history.space and history.outcome(each) is None), None)


def _starts(history: History, references: Sequence[TrainConfig]) -> Iterator[TrainConfig]:
    first, *others = references
    yield from descend(history, first)
    for saver in savers():
        saving = with_saving(history.space, first, saver)
        if saving != first:
            yield from descend(history, saving)
    yield from leanest_configs(history.space)
    for start in others:
        yield from descend(history, start)


def descend(history: History, start: TrainConfig) -> Iterator[TrainConfig]:
    """From ``start`` down the ladder to the first that fits."""
    for size in reversed(history.space.micro_batch_sizes):
        if size > start.micro_batch_size:
            continue
        config = history.space.at_micro_batch(start, size)
        yield config
        if not history.is_too_large(config):
            return


def reference_configs(space: SearchSpace) -> list[TrainConfig]:
    """The reference in each precision of the space, plainest knobs first choice where the reference's is not there."""
    values: dict[str, KnobValue] = {}
    for row in KNOBS:
        choices = space.choices[row.name]
        values[row.name] = row.reference if row.reference in choices else choices[0]
    sizes = space.micro_batch_sizes
    size = max((size for size in sizes if size <= LARGEST_REFERENCE_MICRO_BATCH), default=sizes[0])
    base = space.at_micro_batch(TrainConfig({"micro_batch_size": 1, "accumulation_steps": 1, **values}), size)
    precisions = list(space.choices["precision"])
    if kind_of(space.situation.device).is_host:
        # Few CPUs are fast in fewer bits, and a slow first trial has no best to be stopped by.
        precisions.sort(key=lambda precision: precision != FULL)
    return list(dict.fromkeys(nearest(space, base.replace(precision=precision)) for precision in precisions))


def nearest(space: SearchSpace, config: TrainConfig) -> TrainConfig:
    """The configuration, or where a constraint forbids it the valid one that differs in the fewest knobs."""
    if config in space:
        return config
    names = list(space.choices)
    wanted = [config[name] for name in names]
    closest = min(space.combinations, key=lambda values: sum(a != b for a, b in zip(values, wanted, strict=True)))
    return config.replace(**dict(zip(names, closest, strict=True)))


def made_valid(space: SearchSpace, config: TrainConfig, keep: str) -> TrainConfig | None:
    """The configuration, or where a constraint forbids it the first with one more knob changed; None if none is."""
    if config in space:
        return config
    others = (
        config.replace(**{row.name: value}) for row in KNOBS if row.name != keep for value in space.choices[row.name]
    )
    return next((other for other in others if other in space), None)


def leanest_configs(space: SearchSpace) -> list[TrainConfig]:
    """The configurations that need least memory: the smallest micro-batch and all at once, with all that saves.

    After them, where a space has it, the same with parts in the host's memory.
    """
    found: dict[TrainConfig, None] = {}
    for parts in (PARTS, ON_HOST):
        lean = reference_configs(space)
        for saver in savers(parts):
            lean = [with_saving(space, config, saver) for config in lean]
        if parts is ON_HOST:
            lean = [config for config in lean if config[PARALLELISM] in ON_HOST]
        for size in (space.micro_batch_sizes[0], space.micro_batch_sizes[-1]):
            found |= dict.fromkeys(space.at_micro_batch(config, size) for config in lean)
    return list(found)


def savers(parts: Sequence[KnobValue] = PARTS) -> list[list[Change]]:
    """Savers of memory at the same micro-batch: of activations, the model's bytes, and state; each with its ways."""
    return [[{CHECKPOINTING: EVERY_LAYER}], [{PARALLELISM: each} for each in parts], [{"optimizer": SMALLER_STATE}]]


def with_saving(space: SearchSpace, config: TrainConfig, saver: list[Change]) -> TrainConfig:
    """A configuration with the first way of a saver that a space has beside the other values, or as it is."""
    changed = (config.replace(**change) for change in saver)
    return next((each for each in changed if each in space), config)
