"""Speed and memory of a training run, compared with those promised for it."""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import torch
from transformers import TrainerCallback

WARM_UP_STEPS = 3
NOTICEABLE = 0.05
"""A larger gap than this is worth a word."""


class FitCallback(TrainerCallback):  # type: ignore[misc]
    """Measures a run's optimizer steps and peak memory, and says at the end how they compare with what was promised.

    ``step_seconds`` and ``memory_bytes`` are the promised ones; None of either promises nothing. Steps in which the run
    logged, evaluated or saved are not counted. Memory is what the device's allocator reserved; a CPU has none.
    """

    def __init__(self, step_seconds: float | None = None, memory_bytes: int | None = None) -> None:
        self._promised_seconds = step_seconds
        self._promised_bytes = memory_bytes
        self._last: float | None = None
        self._steps: list[float] = []

    @property
    def step_seconds(self) -> float | None:
        """Seconds of the median optimizer step so far; None before there are some."""
        steps = self._steps[WARM_UP_STEPS:]
        return statistics.median(steps) if steps else None

    @property
    def memory_bytes(self) -> int | None:
        """Bytes that the device's allocator reserved at most; None without such a device."""
        return torch.accelerator.max_memory_reserved() if torch.accelerator.is_available() else None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = time.perf_counter()
        if self._last is not None:
            self._steps.append(now - self._last)
        # What comes before the next step then is not of that step.
        is_busy = control.should_log or control.should_evaluate or control.should_save
        self._last = None if is_busy else now

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        sentences = [
            _compared("a step took", self.step_seconds, self._promised_seconds, _seconds),
            _compared("the device's memory held", self.memory_bytes, self._promised_bytes, _gib),
        ]
        for sentence in filter(None, sentences):
            print(f"autofit: {sentence}.", file=sys.stderr, flush=True)


def _compared(what: str, delivered: float | None, promised: float | None, form: Any) -> str | None:
    if delivered is None or promised is None:
        return None
    gap = delivered / promised - 1
    text = f"{what} {form(delivered)}, {form(promised)} were measured before ({gap:+.0%})"
    return text + ("; another load on the machine or other data can be why" if abs(gap) > NOTICEABLE else "")


def _seconds(value: float) -> str:
    return f"{value:.3g} s"


def _gib(value: float) -> str:
    return f"{value / 2**30:.2f} GiB"
