"""A trial: one configuration that was tried, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from autofit.knobs.train_config import KnobValue, TrainConfig
from autofit.study.measurement import Measurement
from autofit.study.outcome import Outcome
from autofit.study.prediction import Prediction


class Role(StrEnum):
    """Part that a configuration has in a search.

    ``baseline`` is what the user trains with now, ``outside`` a baseline that is not in the space of the search, being
    of a looser numerics class for example, and ``left out`` what an earlier search of the study tried and the last one
    would not: both are shown and compared with, and never recommended.
    """

    CANDIDATE = ""
    BASELINE = "baseline"
    OUTSIDE = "outside"
    LEFT_OUT = "left out"

    @classmethod
    def of(cls, *, is_baseline: bool, is_inside: bool) -> Role:
        """The role of a configuration that is what the user trains with, or not, in a space or outside of it."""
        if is_baseline:
            return cls.BASELINE if is_inside else cls.OUTSIDE
        return cls.CANDIDATE if is_inside else cls.LEFT_OUT


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """Outcome of one run of a recipe, by whom it is known: outcome, reason and measurement are the worker's.

    ``measurement`` is there when the outcome is ``ok``; ``reason`` is one sentence for every other outcome. Whoever
    watched the worker adds its log, its seconds from start to end, ``notes`` (sentences worth showing), and whether a
    signal from outside ended its process, which says nothing about the configuration.
    """

    outcome: Outcome
    reason: str = ""
    measurement: Measurement | None = None
    log_path: str | None = None
    wall_seconds: float = 0.0
    notes: tuple[str, ...] = ()
    was_killed: bool = False


@dataclass(frozen=True, kw_only=True)
class Trial(RunResult):
    """One row of a study: what came of a configuration's run.

    ``whole`` says that the trial ran the whole accumulation, to confirm a configuration that an earlier trial measured
    short; ``round`` is the interleaved round it ran in: whole trials of one round ran side by side. ``prediction`` is
    what was expected of it before it ran, None where nothing was. ``beside`` counts the other trials of the search that
    were running when it began, on other devices.
    """

    number: int
    values: dict[str, KnobValue]
    whole: bool = False
    round: int | None = None
    prediction: Prediction | None = None
    role: Role = Role.CANDIDATE
    beside: int = 0

    def __post_init__(self) -> None:
        assert (self.outcome is Outcome.OK) == (self.measurement is not None), "ok and measured are one thing"

    @property
    def was_run(self) -> bool:
        """True for all but what prediction alone ruled out."""
        return self.outcome is not Outcome.SKIPPED

    @property
    def mfu(self) -> float | None:
        """Model FLOPs utilization (see ``StepWork.mfu``); None where it was not measured or not traced."""
        if self.measurement is None or self.prediction is None or self.prediction.work is None:
            return None
        return self.prediction.work.mfu(self.measurement.step_seconds)

    @property
    def is_baseline(self) -> bool:
        """True for what the user trains with now."""
        return self.role in (Role.BASELINE, Role.OUTSIDE)

    @property
    def is_outside(self) -> bool:
        """True for what the search leaves out."""
        return self.role in (Role.OUTSIDE, Role.LEFT_OUT)

    @property
    def config(self) -> TrainConfig:
        """The configuration that was tried."""
        return TrainConfig(self.values)
