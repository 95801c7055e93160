"""The table of knobs. Adding a row here adds it to the search, the tables, the study and every export."""

from __future__ import annotations

from collections.abc import Mapping

from autofit.knobs.activation_checkpointing import ACTIVATION_CHECKPOINTING
from autofit.knobs.allocator import ALLOCATOR
from autofit.knobs.attention import ATTENTION
from autofit.knobs.batch_layout import BATCH_LAYOUT
from autofit.knobs.compilation import COMPILE
from autofit.knobs.kernels import KERNELS
from autofit.knobs.knob import Knob
from autofit.knobs.loader import LOADER
from autofit.knobs.numerics import Numerics
from autofit.knobs.optimizer import OPTIMIZER
from autofit.knobs.parallelism import PARALLELISM
from autofit.knobs.precision import PRECISION
from autofit.knobs.train_config import KnobValue

KNOBS: tuple[Knob, ...] = (
    PRECISION,
    ACTIVATION_CHECKPOINTING,
    ATTENTION,
    BATCH_LAYOUT,
    OPTIMIZER,
    KERNELS,
    COMPILE,
    ALLOCATOR,
    LOADER,
    PARALLELISM,
)

BATCH_KNOBS = ("micro_batch_size", "accumulation_steps")
"""The two names that split the effective batch; their values come from the workload, not from the table."""


def completed(values: Mapping[str, KnobValue]) -> dict[str, KnobValue]:
    """Values with the reference of every knob that they do not name: what was stored before there was that knob."""
    return {**values, **{row.name: row.reference for row in KNOBS if row.name not in values}}


def knob(name: str) -> Knob:
    """The row called ``name``. Raises KeyError where there is none."""
    for row in KNOBS:
        if row.name == name:
            return row
    raise KeyError(f"there is no knob {name}")


def numerics_of(values: dict[str, KnobValue]) -> tuple[Numerics, ...]:
    """The classes of a configuration's choices, each once, loosest first; exact alone where nothing else is."""
    classes = {row.choice(values[row.name]).numerics for row in KNOBS}
    looser = sorted(classes - {Numerics.EXACT}, key=lambda numerics: (-numerics.level, numerics.label))
    return tuple(looser) or (Numerics.EXACT,)
