"""Observations that a sampler learns from: one for each configuration, in the attributes of Optuna's trials."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import optuna

from autofit.knobs.train_config import TrainConfig
from autofit.study.outcome import Outcome
from autofit.study.trial import Trial

ATTRIBUTE = "observation"
RUNNING = "running"
"""The outcome of what has not ended: only that it is being tried is known."""


class Elsewhere(NamedTuple):
    """Measurement of another study: seconds of an optimizer step there, and the study's name."""

    config: TrainConfig
    seconds: float
    study: str


@dataclass(frozen=True, kw_only=True)
class Observation:
    """Outcome of one configuration, in figures.

    ``seconds`` of an optimizer step and ``needed_bytes`` are there when it was measured; ``uncertainty`` is half the
    95 % interval of the seconds, as a share of them; ``timed_seconds`` is the part of ``wall_seconds`` that the timed
    windows took. ``slower_than`` is a lower bound of the seconds, for one that was stopped early.
    """

    outcome: str
    seconds: float | None = None
    uncertainty: float | None = None
    needed_bytes: int | None = None
    wall_seconds: float = 0.0
    timed_seconds: float = 0.0
    slower_than: float | None = None

    @classmethod
    def of(cls, trial: Trial, best_before: float | None, slower_factor: float) -> Observation:
        """Of a trial; ``best_before`` is what it was stopped for where it was stopped early."""
        measured = trial.measurement
        if measured is None:
            bound = None
            if trial.outcome is Outcome.SLOWER and best_before is not None:
                bound = slower_factor * best_before
            return cls(outcome=trial.outcome.value, wall_seconds=trial.wall_seconds, slower_than=bound)
        uncertainty = measured.uncertainty
        return cls(
            outcome=trial.outcome.value,
            seconds=measured.step_seconds,
            uncertainty=uncertainty if math.isfinite(uncertainty) else None,
            needed_bytes=measured.memory.needed,
            wall_seconds=trial.wall_seconds,
            timed_seconds=sum(window.wall_seconds for window in measured.windows),
        )

    def attributes(self) -> dict[str, Any]:
        """As a trial's ``user_attrs``."""
        return {ATTRIBUTE: asdict(self)}


def observed(trials: Iterable[optuna.trial.FrozenTrial]) -> list[tuple[dict[str, Any], Observation]]:
    """Parameters and observation of every trial that has one."""
    return [
        (trial.params, Observation(**trial.user_attrs[ATTRIBUTE])) for trial in trials if ATTRIBUTE in trial.user_attrs
    ]
