"""Which traces a configuration needs, and how its own step follows from them.

The bytes of every block and the work of every operator are affine in the number of rows, so that two traces tell all
others, where their events come in the same order. The optimizer's update depends on neither the micro-batch nor what
the forward pass keeps, so it is traced once for each optimizer and put behind the micro-step of any family.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from autofit.predict.step_time import Floats, Work
from autofit.predict.timeline import Integers, StepBuilder
from autofit.recipe import Recipe
from autofit.trace import SORTED_EMBEDDING_TOKENS, Operators, Phase, StepTrace

REFERENCE_OPTIMIZER = "adamw_torch_fused"
FIRST_PAIR = (2, 4)
"""Rows of the two traces that tell all others. One row is a case of its own: tensors with a dimension of 1 are
contiguous in more ways, and less is copied."""


def pair_for(rows: float, length: int, *, on_cuda: bool) -> tuple[int, int]:
    """Rows of the two traces that tell of ``rows`` rows of ``length`` tokens: on the same side of what CUDA sorts."""
    most = SORTED_EMBEDDING_TOKENS // length
    if not on_cuda or most < FIRST_PAIR[0]:
        return FIRST_PAIR
    if rows > most:
        # A power of two, which effective batches are mostly divided by, so that it may be of use by itself.
        few = 2 ** int(most).bit_length()
        return few, 2 * few
    return FIRST_PAIR[0], max(FIRST_PAIR[0] + 1, min(FIRST_PAIR[1], most))


def traceable(recipe: Recipe, *, optimizer: str) -> Recipe:
    """The part of a recipe that decides what a micro-step keeps, in words that a CPU takes.

    fp16 autocast makes the copies that bf16's makes, and its loss scaling works in place; tf32 rounds inside the
    kernels. Compiling and fused kernels are left out: what is kept with them is at most what is kept without.
    """
    left_out = ("tf32", "torch_compile", "use_liger_kernel", "train_sampling_strategy", "fp16")
    arguments = {name: value for name, value in recipe.training_arguments.items() if name not in left_out}
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
        processes=1,
    )


def _with_bfloat16(keywords: dict[str, Any]) -> dict[str, Any]:
    """The other 16 bits: a CPU has no autocast to float16."""
    return {name: "bfloat16" if value == "float16" else value for name, value in keywords.items()}


class Family:
    """A step at any number of rows: from one trace at its own, or from two, of ``pair`` rows, at all others."""

    def __init__(
        self,
        few: StepTrace,
        many: StepTrace | None,
        *,
        inputs_ahead: int,
        pair: tuple[int, int] = FIRST_PAIR,
    ) -> None:
        self.builder = StepBuilder(few, inputs_ahead=inputs_ahead)
        self._few, self._many, self._pair = few, many, pair

    @staticmethod
    def are_alike(few: StepTrace, many: StepTrace) -> bool:
        """Whether two traces tell of the same step, event by event."""
        names = ("events", "categories", "phase_ends", "gradient_events")
        same = all(getattr(few, name) == getattr(many, name) for name in names)
        return same and few.operators.names == many.operators.names

    def sizes(self, rows: float) -> Integers:
        """Bytes of every block."""
        many = None if self._many is None else self._many.sizes
        return np.rint(self._between(self._few.sizes, many, rows)).astype(np.int64)

    def work(self, rows: float) -> Work:
        """What the operators do."""
        few, many = self._few.operators, None if self._many is None else self._many.operators
        return Work(
            flops=self._between(few.flops, None if many is None else many.flops, rows),
            moved_bytes=self._between(few.moved_bytes, None if many is None else many.moved_bytes, rows),
            bits=np.array(few.bits),
            is_quadratic=np.array(few.quadratic, dtype=bool),
            is_update=np.array(few.phases) == Phase.UPDATE,
        )

    def _between(self, first: Sequence[int], second: Sequence[int] | None, rows: float) -> Floats:
        start = np.array(first, dtype=float)
        if second is None:
            return start
        few, many = self._pair
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
    return replace(
        step,
        sizes=tuple(sizes),
        categories=tuple(categories),
        makers=tuple(makers),
        events=tuple(events),
        phase_ends=(*step.phase_ends[: Phase.UPDATE], len(events)),
        operators=_with_update(step.operators, update.operators),
    )


def _with_update(step: Operators, update: Operators) -> Operators:
    parts = {}
    # The update is the last phase.
    end, begin = bisect.bisect_left(step.phases, Phase.UPDATE), bisect.bisect_left(update.phases, Phase.UPDATE)
    for name in Operators.__dataclass_fields__:
        parts[name] = (*getattr(step, name)[:end], *getattr(update, name)[begin:])
    return Operators(**parts)
