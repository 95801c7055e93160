"""One training step as it was traced without data: which blocks of memory it takes and frees, which operators it runs.

Recorded is the first micro-step of an optimizer step, from fetching its batch to the end of its backward pass,
the optimizer's update with the making of its state, and one evaluation after it. ``predict/timeline.py`` makes whole
steps of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

SORTED_EMBEDDING_TOKENS = 3072
"""CUDA's backward pass of an embedding sorts the tokens of a micro-batch with more than these, which takes other blocks
(``embedding_dense_backward_cuda`` in native/cuda/Embedding.cu)."""
SPLIT_SUM_ROWS = 1024
"""CUDA splits a sum over so many rows among thread blocks, mostly: 4 threads' shares of 256 (``setReduceConfig`` in
native/cuda/Reduce.cuh)."""
CHANGING_TOKENS = (SPLIT_SUM_ROWS, SORTED_EMBEDDING_TOKENS + 1)
"""Tokens of a micro-batch from which on other blocks are taken."""


class Phase(IntEnum):
    """Part of a step in which a block is taken."""

    BEFORE = 0
    FETCH = 1
    FORWARD = 2
    BACKWARD = 3
    UPDATE = 4
    EVALUATION = 5


class Category(IntEnum):
    """Purpose of a block. A peak's categories add up to the peak."""

    WEIGHTS = 0
    GRADIENTS = 1
    OPTIMIZER_STATE = 2
    INPUTS = 3
    ACTIVATIONS = 4
    LOGITS_AND_LOSS = 5
    AUTOCAST_COPIES = 6
    TEMPORARIES = 7
    GATHERED = 8


@dataclass(frozen=True, kw_only=True)
class Operators:
    """Operators that do work, one entry each in the order run; those that only look at tensors are left out.

    ``flops`` counts a multiplication and an addition as two; ``moved_bytes`` what is read and written once.
    ``bits`` is the width of the numbers that are multiplied: 16 or 32, of an operator that multiplies matrices,
    else 0. ``quadratic`` marks attention, whose flops grow with the square of the length.
    """

    names: tuple[str, ...]
    phases: tuple[int, ...]
    flops: tuple[int, ...]
    moved_bytes: tuple[int, ...]
    bits: tuple[int, ...]
    quadratic: tuple[bool, ...]


@dataclass(frozen=True, kw_only=True)
class StepTrace:
    """Blocks of memory, numbered in the order they were taken, and what happened to them.

    ``events`` holds ``block + 1`` where a block is taken and ``-(block + 1)`` where it is freed. Blocks that were
    there before (weights) are taken in the beginning; in a training of several processes some are also taken and freed
    before the step. ``phase_ends`` says how many events had happened when each Phase ended. ``sizes`` are bytes as they
    were asked for, ``makers`` names of operators.
    ``gradient_of`` maps the number of a trained weight to its gradient's block, ``gradient_events`` that block to the
    number of events when it became ``.grad``;
    ``cloned_gradients`` are those that were copied for that instead of handed over.

    ``again`` says after how many events the forward and the backward pass of each further micro-step began, within the
    backward phase: of the last one, or of one in between and the last; it is empty where there was one micro-step.
    ``stream_of`` has the number of the stream of work that a block is taken on, where that is not the first one.
    ``exchanged`` are the bytes that all processes together have of what they gather and reduce in each traced
    micro-step; a sum counts twice, as it is gathered again.
    """

    rows: int
    length: int
    sizes: tuple[int, ...]
    categories: tuple[int, ...]
    makers: tuple[str, ...]
    events: tuple[int, ...]
    phase_ends: tuple[int, ...]
    gradient_events: dict[int, int]
    gradient_of: dict[int, int]
    cloned_gradients: tuple[int, ...]
    operators: Operators
    again: tuple[int, ...] = ()
    stream_of: dict[int, int] = field(default_factory=dict)
    exchanged: tuple[int, ...] = (0,)
