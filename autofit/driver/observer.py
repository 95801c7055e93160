"""The events of a search, for whoever watches it."""

from __future__ import annotations

from collections.abc import Sequence

from autofit.job.situation import Situation
from autofit.knobs.train_config import TrainConfig
from autofit.study.trial import Trial


class Observer:
    """Watches a search and does nothing; a live view overrides what it shows."""

    def opened(
        self,
        study: str,
        storage: str,
        situation: Situation,
        num_configs: int,
        trials: Sequence[Trial],
        seconds_left: float | None,
    ) -> None:
        """The study is open; ``trials`` are what it holds already, ``num_configs`` what its space holds.
        ``seconds_left`` of the budget are what earlier runs did not spend; None without one."""

    def begun(self, number: int, config: TrainConfig, *, whole: bool) -> None:
        """A trial starts; ``whole`` for the confirmation of a finalist."""

    def expects(self, seconds: float) -> None:
        """As it looks now, the search ends in about so long, where the budget does not end it sooner."""

    def ended(self, trial: Trial, trials: Sequence[Trial]) -> None:
        """It ended, and is stored. ``trials`` are all of the study, this one included."""

    def lost(self, number: int) -> None:
        """A trial that began will not end: who ran it has gone. It counts as never run."""

    def say(self, sentence: str) -> None:
        """Something worth telling."""
