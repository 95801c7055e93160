"""Families of traces: those that a configuration's prediction needs, and its own step derived from them.

The bytes of every block and the work of every operator are affine in the number of rows (but for the pieces that
Liger's loss makes of the logits), so that two traces tell all others, where their events come in the same order. The
optimizer's update depends on neither the micro-batch nor what the forward pass keeps, so it is traced once for each
optimizer and put behind the micro-step of any family.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from autofit.knobs import KNOBS
from autofit.knobs.baseline import names_of
from autofit.knobs.recipe import Recipe
from autofit.predict.step_time import Floats, Work
from autofit.predict.timeline import Integers, StepBuilder
from autofit.predict.trace import CHANGING_TOKENS, Operators, Phase, StepTrace

_LEFT_OUT = {"tf32", "train_sampling_strategy", "fp16"}.union(*(names_of(row) for row in KNOBS if not row.is_traced))
"""Arguments that change nothing in what a micro-step keeps, or that a CPU does not take."""
FIRST_PAIR = (2, 4)
"""Rows of the two traces that tell all others. One row is a case of its own: tensors with a dimension of 1 are
contiguous in more ways, and less is copied."""


def pair_for(rows: float, length: int, *, on_cuda: bool) -> tuple[int, int]:
    """Rows of the two traces that tell of ``rows`` rows of ``length`` tokens: in one range of what CUDA does alike."""
    least, most = _alike(rows * length) if on_cuda else (1, math.inf)
    few = max(FIRST_PAIR[0], -(-least // length))
    # A power of two, which effective batches are mostly divided by, so that it may be of use by itself.
    few = 2 ** (few - 1).bit_length()
    return few, int(min(2 * few, max(few + 1, most / length)))


def _alike(tokens: float) -> tuple[int, float]:
    """The fewest and the most tokens for which CUDA takes the blocks that it takes for so many."""
    bounds = (1, *CHANGING_TOKENS, math.inf)
    upper = next(place for place, bound in enumerate(bounds) if tokens < bound)
    return int(bounds[upper - 1]), bounds[upper] - 1


def shorter_length(rows: float, length: int, *, on_cuda: bool) -> int | None:
    """Tokens of ``rows`` rows that tell, beside rows of ``length`` tokens, how blocks grow with the length.

    More than half, so that no two of them fit into a packed row; a multiple of 128 where there is one, as attention's
    kernels round to it; in the same range of what CUDA does alike. None where there is no such length.
    """
    least = length // 2 + 1
    if on_cuda:
        least = max(least, math.ceil(_alike(rows * length)[0] / rows))
    for step in (128, 8, 1):
        found = -(-least // step) * step
        if found < length:
            return found
    return None


def traceable(recipe: Recipe, *, optimizer: str) -> Recipe:
    """The part of a recipe that decides what a micro-step keeps, in words that a CPU takes.

    fp16 autocast makes the copies that bf16's makes, and its loss scaling works in place; tf32 rounds inside the
    kernels. Compiling is left out: what is kept with it is at most what is kept without.
    """
    arguments = {name: value for name, value in recipe.training_arguments.items() if name not in _LEFT_OUT}
    if recipe.training_arguments.get("fp16"):
        arguments["bf16"] = True
    arguments |= {
        "use_cpu": True,
        "optim": optimizer,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 1,
    }
    return replace(
        recipe,
        training_arguments=arguments,
        model_kwargs=_with_bfloat16(recipe.model_kwargs),
        quantization=None if recipe.quantization is None else _with_bfloat16(recipe.quantization),
        environment={},
        paged_state=False,
        is_compiled=False,
        state_bytes=0.0,
    )


def _with_bfloat16(keywords: dict[str, Any]) -> dict[str, Any]:
    """The other 16 bits: a CPU has no autocast to float16."""
    return {name: "bfloat16" if value == "float16" else value for name, value in keywords.items()}


class Family:
    """A step at any number of rows: from one trace at its own, or from two at all others; ``rows`` are theirs.

    ``shorter`` is a trace of as many rows as ``many`` (``few`` where that is missing) and of fewer tokens each: between
    its length and theirs, and beyond, every block is taken to grow with the power of the length that the two tell (0, 1
    and 2 are what there is).
    """

    def __init__(
        self,
        few: StepTrace,
        many: StepTrace | None,
        *,
        inputs_ahead: int,
        rows: Sequence[int] = FIRST_PAIR,
        shorter: StepTrace | None = None,
    ) -> None:
        self.builder = StepBuilder(few, inputs_ahead=inputs_ahead)
        self._few, self._many, self._rows, self._shorter = few, many, rows, shorter

    @property
    def has_lengths(self) -> bool:
        """True where a shorter trace tells of other lengths."""
        return self._shorter is not None

    def rows_told(self, rows: float) -> float:
        """Rows that are told of where ``rows`` are asked for: one trace tells of its own alone."""
        return self._rows[0] if self._many is None else rows

    def between_squares(self, rows: float) -> float:
        """The square of a number of rows, as what is affine between the two traces has it."""
        few, *many = ([number**2] for number in self._rows)
        return float(self._between(few, many[0] if many else None, rows)[0])

    @staticmethod
    def are_alike(few: StepTrace, many: StepTrace) -> bool:
        """True if two traces tell of the same step, event by event."""
        names = ("events", "categories", "phase_ends", "gradient_events", "again", "stream_of")
        same = all(getattr(few, name) == getattr(many, name) for name in names)
        return same and few.operators.names == many.operators.names

    def sizes(self, rows: float, length: int | None = None) -> Integers:
        """Bytes of every block at a number of rows of the traced length, or of another ``length``."""
        many = None if self._many is None else self._many.sizes
        sizes = self._between(self._few.sizes, many, rows)
        if length is not None and length != self._few.length and self._shorter is not None:
            way = math.log(length / self._few.length) / math.log(self._shorter.length / self._few.length)
            sizes = sizes * self._shrinking**way
        return np.rint(sizes).astype(np.int64)

    @cached_property
    def _shrinking(self) -> Floats:
        """Shares of the longer trace's bytes that the shorter one's blocks have."""
        assert self._shorter is not None
        longer = np.array((self._many or self._few).sizes, dtype=float)
        shares: Floats = np.array(self._shorter.sizes, dtype=float) / np.maximum(longer, 1.0)
        return np.where(longer > 0, shares, 1.0)

    def exchanged_bytes(self, accumulation: int) -> int:
        """Bytes that all processes together have of what they gather and reduce in a step; the same for all rows."""
        first, *others = self._few.exchanged
        if not others:
            return first
        between = others[0] if len(others) > 1 else first
        return first + (accumulation - 2) * between + others[-1]

    def work(self, rows: float) -> Work:
        """Work of the operators."""
        few, many = self._few.operators, None if self._many is None else self._many.operators
        return replace(
            Work.of(few),
            flops=self._between(few.flops, None if many is None else many.flops, rows),
            moved_bytes=self._between(few.moved_bytes, None if many is None else many.moved_bytes, rows),
        )

    def _between(self, first: Sequence[int], second: Sequence[int] | None, rows: float) -> Floats:
        start = np.array(first, dtype=float)
        if second is None:
            return start
        few, many = self._rows
        share = (rows - few) / (many - few)
        between: Floats = start + share * (np.array(second, dtype=float) - start)
        return between


def with_update(step: StepTrace, update: StepTrace) -> StepTrace | None:
    """``step`` with another trace's update behind it; None where the two do not train the same weights."""
    blocks = {old: step.gradient_of.get(weight) for weight, old in update.gradient_of.items()}
    same = step.gradient_of.keys() == update.gradient_of.keys() and all(
        new is not None and step.sizes[new] == update.sizes[old] for old, new in blocks.items()
    )
    if not same:
        return None
    sizes, categories, makers = list(step.sizes), list(step.categories), list(step.makers)
    start, end = step.phase_ends[Phase.BACKWARD], step.phase_ends[Phase.UPDATE]
    gradients = set(step.gradient_of.values())
    before = {event - 1 for event in step.events[:start] if event > 0}
    events = list(step.events[:start])
    # What the micro-step left behind, its loss mostly, goes as it went.
    left = before - gradients
    events += [event for event in step.events[start:end] if event < 0 and -event - 1 in left]
    for event in update.events[update.phase_ends[Phase.BACKWARD] : update.phase_ends[Phase.UPDATE]]:
        block = abs(event) - 1
        if block not in blocks and event > 0:
            blocks[block] = len(sizes)
            sizes.append(update.sizes[block])
            categories.append(update.categories[block])
            makers.append(update.makers[block])
        number = blocks.get(block)
        if number is not None:
            events.append(number + 1 if event > 0 else -(number + 1))
    update_ends = len(events)
    evaluation = step.events[end : step.phase_ends[Phase.EVALUATION]]
    own = {event - 1 for event in evaluation if event > 0}
    events += [event for event in evaluation if abs(event) - 1 in own]
    return replace(
        step,
        sizes=tuple(sizes),
        categories=tuple(categories),
        makers=tuple(makers),
        events=tuple(events),
        phase_ends=(*step.phase_ends[: Phase.UPDATE], update_ends, len(events)),
        operators=_with_update(step.operators, update.operators),
    )


def _with_update(step: Operators, update: Operators) -> Operators:
    parts = {}
    # The update is the last phase.
    end, begin = bisect.bisect_left(step.phases, Phase.UPDATE), bisect.bisect_left(update.phases, Phase.UPDATE)
    for name in Operators.__dataclass_fields__:
        parts[name] = (*getattr(step, name)[:end], *getattr(update, name)[begin:])
    return Operators(**parts)
