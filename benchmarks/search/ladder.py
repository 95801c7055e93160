"""The strategy autofit began with, kept to measure its successor against: one change at a time from the best.

1. The reference: TrainingArguments' defaults at a micro-batch of up to 8, in each allowed precision; where
   that does not fit, the next smaller step of the divisor ladder. Where nothing does, the leanest
   configurations there are.
2. From the best so far: climb its ladder to the largest micro-batch that fits (it need not be the
   fastest, but only measuring tells); then change one knob at a time (two where the one alone is not
   valid), climbing further with each change that keeps up; then, where memory was what ended the climb,
   the choices that save memory, at the size that did not fit.
3. Accumulation 1 on its own: it keeps no gradients during the forward pass, so an out-of-memory with
   accumulation says nothing about it.

The search is over when the best has no neighbour left that is neither measured nor ruled out. Every
proposal is computed from the history alone, so a search that was killed goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterator

from autofit.driver.history import History
from autofit.driver.starts import descend, leanest_configs, made_valid, reference_configs, savers, with_saving
from autofit.knobs import KNOBS, knob
from autofit.knobs.activation_checkpointing import NAME as CHECKPOINTING
from autofit.knobs.optimizer import SMALLER_STATE
from autofit.knobs.space import SearchSpace
from autofit.knobs.train_config import TrainConfig
from autofit.study.outcome import Outcome

LADDER = tuple(str(choice.value) for choice in sorted(knob(CHECKPOINTING).choices, key=lambda choice: choice.rung or 0))
"""From the most memory to the least."""
KEEPS_UP = 1.15
"""A change within this factor of the best is worth climbing with: a larger micro-batch often makes that up."""
COARSE_STEP = 1.5
"""Climbing skips ladder steps closer than this; the best's own neighbours are tried at the end."""
WORSE_TWICE = 2


class LadderStrategy:
    """See the module."""

    conclusion = "no configuration next to the best one is untried"
    trials_to_come = None

    def propose(self, history: History) -> TrainConfig | None:
        return next(
            (config for config in _candidates(history) if config in history.space and history.outcome(config) is None),
            None,
        )


def _candidates(history: History) -> Iterator[TrainConfig]:
    space = history.space
    references = reference_configs(space)
    for start in references:
        yield from descend(history, start)
    if history.best is None:
        for start in references:
            for saver in savers():
                yield from descend(history, with_saving(space, start, saver))
        yield from leanest_configs(space)
    best = history.best
    if best is None:
        return
    config = best.config
    yield from _climb(history, config)
    yield from _single_changes(history, config)
    yield from _savers_where_memory_ended_it(history, config)
    yield from _ladder_neighbours(space, config)
    yield from _without_accumulation(history, config)


def _climb(history: History, start: TrainConfig) -> Iterator[TrainConfig]:
    """From ``start`` up the ladder: coarsely until one does not fit or two in a row are worse, then between.

    The last step, accumulation 1, is left to ``_without_accumulation`` where a smaller one did not fit.
    """
    space = history.space
    fitting = start.micro_batch_size
    too_large = None
    lowest = history.step_seconds(start)
    worse = 0
    last = start.micro_batch_size
    for size in space.micro_batch_sizes:
        top = size == space.micro_batch_sizes[-1]
        if size <= last or (size < COARSE_STEP * last and not top):
            continue
        config = space.at_micro_batch(start, size)
        yield config
        last = size
        if history.is_too_large(config):
            too_large = size
            break
        fitting = size
        seconds = history.step_seconds(config)
        if lowest is not None and (seconds is None or seconds >= lowest):
            worse += 1
            if worse == WORSE_TWICE:
                return
        elif seconds is not None:
            lowest, worse = seconds, 0
    if too_large is not None and worse == 0:
        yield from _bisect(history, start, fitting, too_large)


def _bisect(history: History, start: TrainConfig, fitting: int, too_large: int) -> Iterator[TrainConfig]:
    """The largest step that fits between one that does and one that does not."""
    between = [size for size in history.space.micro_batch_sizes if fitting < size < too_large]
    while between:
        middle = between[len(between) // 2]
        config = history.space.at_micro_batch(start, middle)
        yield config
        if history.is_too_large(config):
            between = [size for size in between if size < middle]
        else:
            between = [size for size in between if size > middle]


def _single_changes(history: History, config: TrainConfig) -> Iterator[TrainConfig]:
    best = history.best_seconds
    for row in KNOBS:
        for value in history.space.choices[row.name]:
            if value == config[row.name]:
                continue
            changed = made_valid(history.space, config.replace(**{row.name: value}), keep=row.name)
            if changed is None:
                continue
            yield from descend(history, changed)
            seconds = history.step_seconds(changed)
            if best is not None and seconds is not None and seconds <= KEEPS_UP * best:
                yield from _climb(history, changed)


def _savers_where_memory_ended_it(history: History, config: TrainConfig) -> Iterator[TrainConfig]:
    """Configurations that did not fit, tried again with as little saving as makes them fit."""
    space = history.space
    larger = [size for size in space.micro_batch_sizes if size > config.micro_batch_size]
    ended_at = next((size for size in larger if history.is_too_large(space.at_micro_batch(config, size))), None)
    if ended_at is not None:
        for saving in _with_savings(space, space.at_micro_batch(config, ended_at)):
            yield saving
            if history.outcome(saving) is Outcome.OK:
                yield from _climb(history, saving)
    for row in KNOBS:
        for value in space.choices[row.name]:
            changed = config.replace(**{row.name: value})
            if value == config[row.name] or not history.is_too_large(changed):
                continue
            for saving in _with_savings(space, changed, keep=row.name):
                yield saving
                if not history.is_too_large(saving):
                    break


def _with_savings(space: SearchSpace, config: TrainConfig, keep: str = "") -> Iterator[TrainConfig]:
    """The configuration with less optimizer state, more checkpointing, or both; the least saving first."""
    rungs = [rung for rung in LADDER if rung in space.choices[CHECKPOINTING]]
    above = rungs[rungs.index(str(config[CHECKPOINTING])) + 1 :] if keep != CHECKPOINTING else []
    optimizers = [config["optimizer"]]
    if keep != "optimizer" and SMALLER_STATE in space.choices["optimizer"] and SMALLER_STATE not in optimizers:
        optimizers.append(SMALLER_STATE)
    for rung in [config[CHECKPOINTING], *above]:
        for optimizer in optimizers:
            saving = config.replace(optimizer=optimizer, activation_checkpointing=rung)
            if saving != config and saving in space:
                yield saving


def _ladder_neighbours(space: SearchSpace, config: TrainConfig) -> Iterator[TrainConfig]:
    sizes = space.micro_batch_sizes
    place = sizes.index(config.micro_batch_size)
    for near in (place + 1, place - 1):
        if 0 <= near < len(sizes):
            yield space.at_micro_batch(config, sizes[near])


def _without_accumulation(history: History, config: TrainConfig) -> Iterator[TrainConfig]:
    top = history.space.micro_batch_sizes[-1]
    yield history.space.at_micro_batch(config, top)
    yield history.space.at_micro_batch(with_saving(history.space, config, savers()[0]), top)
