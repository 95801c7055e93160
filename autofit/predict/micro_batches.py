"""Shapes of a layout's micro-batches, as the Trainer's own samplers and the layout's collator make them.

A worker finds them (``worker/batches.py``), because the samplers are transformers' own; where all samples have one
length there is nothing to find.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from autofit.job.models import ModelSource
from autofit.job.situation import Situation
from autofit.job.workload import Workload
from autofit.knobs.recipe import Recipe, recipe_for
from autofit.knobs.train_config import KnobValue, TrainConfig
from autofit.study.measurement import BatchShape

FORMAT = 3
"""Counts up where the shapes are found in another way, so that older answers on the disk are not taken for new."""
FORMAT_OF_SEVERAL = 4
"""Counts up where shapes or traces of several processes alone are found in another way."""
MOST_IN_ORDER = 100
"""Micro-batches in training order that the allocator's simulation plays."""


class CannotPredictError(Exception):
    """No trace of this, or no micro-batches; the text is a sentence that says why."""


@dataclass(frozen=True, kw_only=True)
class FilledShape(BatchShape):
    """A micro-batch's shape, and whether its samples fill its rows, one in each.

    Models of HF's then leave the attention mask out, and other kernels of attention run.
    """

    is_full: bool = False

    @classmethod
    def of(cls, shape: BatchShape, *, is_full: bool) -> FilledShape:
        """The same shape, and whether it is full."""
        return cls(rows=shape.rows, length=shape.length, is_full=is_full)


class MicroBatches(msgspec.Struct, frozen=True, kw_only=True):
    """Micro-batches that one layout makes of a workload, at one micro-batch size.

    ``worst`` need most memory: the most padded tokens, the same rows with a little padding where these have none, and
    the most attention scores; each where it is another.
    ``in_order`` holds the first optimizer steps of the frozen list, about ``MOST_IN_ORDER`` micro-batches, and of
    longer steps their beginning. ``mean_tokens`` are a micro-batch's padded tokens on average, ``mean_scores`` the
    squares of the lengths that attention works on.
    """

    worst: tuple[FilledShape, ...]
    in_order: tuple[tuple[FilledShape, ...], ...]
    mean_tokens: float
    mean_scores: float
    format: int = FORMAT

    @property
    def all(self) -> set[FilledShape]:
        """Every shape among them."""
        return {*self.worst, *itertools.chain.from_iterable(self.in_order)}

    @property
    def usual(self) -> FilledShape:
        """A shape that is as full as most in training order."""
        shapes = list(itertools.chain.from_iterable(self.in_order))
        full = [shape for shape in shapes if shape.is_full]
        return next(shape for shape in shapes if shape.is_full == (2 * len(full) > len(shapes)))

    @classmethod
    def of_one_shape(cls, shape: FilledShape, accumulation: int) -> MicroBatches:
        """All micro-batches have one shape; what the second micro-step of a step finds, all others find."""
        step = (shape,) * min(accumulation, 2)
        return cls(
            worst=(shape,),
            in_order=(step,),
            mean_tokens=shape.padded_tokens,
            mean_scores=shape.rows * shape.length**2,
        )


def layout_of(recipe: Recipe) -> Recipe:
    """The part of a recipe that decides how samples become micro-batches."""
    names = ("per_device_train_batch_size", "gradient_accumulation_steps", "train_sampling_strategy")
    return Recipe(
        training_arguments={
            name: recipe.training_arguments[name] for name in names if name in recipe.training_arguments
        },
        model_kwargs={},
        environment={},
        processes=recipe.processes,
        collator=recipe.collator,
        collator_kwargs=recipe.collator_kwargs,
    )


def key_of(layout: Recipe, model: ModelSource, workload: Workload, versions: dict[str, str]) -> str:
    """The same for the same micro-batches with the same versions."""
    # Of a model any has the same; a program's are its own collator's.
    program = model.digest if model.origin == "program" else ""
    parts = (
        FORMAT,
        program,
        layout,
        workload.lengths,
        workload.effective_batch,
        workload.processes,
        workload.processes > 1 and FORMAT_OF_SEVERAL,
        sorted(versions.items()),
    )
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()[:24]


Find = Callable[[ModelSource, Workload, Sequence[Recipe]], list[MicroBatches] | None]


class Layouts:
    """Micro-batches of one situation's configurations; ``find`` has a worker find them, or has them on the disk."""

    def __init__(self, situation: Situation, model: ModelSource, find: Find) -> None:
        self._situation = situation
        self._model = model
        self._find = find
        self._known: dict[KnobValue, dict[int, MicroBatches] | None] = {}

    def has(self, config: TrainConfig) -> bool:
        """False where no worker answered."""
        try:
            self.of(config)
        except CannotPredictError:
            return False
        return True

    def of(self, config: TrainConfig) -> MicroBatches:
        """A configuration's micro-batches. Raises CannotPredictError."""
        size, workload = config.micro_batch_size, self._situation.workload
        if workload.lengths.all_equal:
            shape = FilledShape(rows=size, length=workload.lengths.longest, is_full=True)
            return MicroBatches.of_one_shape(shape, config.accumulation_steps)
        layout = config["batch_layout"]
        if layout not in self._known:
            self._known[layout] = self._of_every_size(config)
        found = self._known[layout]
        if found is None:
            raise CannotPredictError("no worker said which micro-batches its layout makes")
        return found[size]

    def _of_every_size(self, config: TrainConfig) -> dict[int, MicroBatches] | None:
        total = config.micro_batch_size * config.accumulation_steps
        sizes = [size for size in range(1, total + 1) if total % size == 0]
        configs = [config.replace(micro_batch_size=size, accumulation_steps=total // size) for size in sizes]
        layouts = [layout_of(recipe_for(each, self._situation)) for each in configs]
        found = self._find(self._model, self._situation.workload, layouts)
        return None if found is None else dict(zip(sizes, found, strict=True))
