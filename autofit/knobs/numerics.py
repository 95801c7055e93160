"""Numerics classes: how far a choice may move the numbers of a training run, for a user to allow or refuse."""

from __future__ import annotations

from enum import Enum


class Numerics(Enum):
    """One class per kind of difference; ``level`` says from which ``--numerics`` on it is searched.

    EXACT differs from the reference only by rounding in the same precision. MIXED computes parts in
    fewer bits over full-precision weights. QUANTIZED_STATE keeps the optimizer's moments in 8 or 4 bits.
    PURE keeps the trained weights themselves in 16 bits. OTHER_ALGORITHM is another optimizer.
    BATCH_COMPOSITION changes which samples share an optimizer step.
    """

    EXACT = ("exact", 0)
    MIXED = ("mixed", 1)
    QUANTIZED_STATE = ("quantized state", 1)
    PURE = ("pure", 2)
    OTHER_ALGORITHM = ("other algorithm", 2)
    BATCH_COMPOSITION = ("batch composition", 2)

    def __init__(self, label: str, level: int) -> None:
        self.label = label
        self.level = level


NUMERICS_LEVELS = {"exact": 0, "standard": 1, "aggressive": 2}
"""``--numerics`` -> the highest level that is searched."""
