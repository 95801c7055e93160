"""A trial: one configuration that was tried, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass

from autofit.measurement import Measurement
from autofit.outcome import Outcome
from autofit.prediction import Prediction
from autofit.train_config import KnobValue, TrainConfig


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One row of a study.

    ``measurement`` is there when the outcome is ``ok``; ``reason`` is one sentence for every other outcome. ``whole``
    says that the trial ran the whole accumulation, to confirm a configuration that an earlier trial measured short;
    ``round`` is the interleaved round it ran in: whole trials of one round ran side by side. ``notes`` are sentences
    worth showing. ``prediction`` is what was expected of it before it ran, None where nothing was. ``role`` is
    ``baseline`` for what the user trains with now, and ``outside`` for a baseline that is not in the space of the
    search, being of a looser numerics class for example: it is shown and compared with, and never recommended.
    """

    number: int
    values: dict[str, KnobValue]
    outcome: Outcome
    reason: str = ""
    measurement: Measurement | None = None
    whole: bool = False
    round: int | None = None
    log_path: str | None = None
    wall_seconds: float = 0.0
    notes: tuple[str, ...] = ()
    prediction: Prediction | None = None
    role: str = ""

    def __post_init__(self) -> None:
        assert (self.outcome is Outcome.OK) == (self.measurement is not None), "ok and measured are one thing"

    @property
    def config(self) -> TrainConfig:
        """The configuration that was tried."""
        return TrainConfig(self.values)
