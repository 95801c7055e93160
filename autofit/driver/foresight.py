"""Predictions that a search steers by, calibrated by the trials so far."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

from autofit.knobs.train_config import TrainConfig
from autofit.predict.micro_batches import CannotPredictError
from autofit.predict.predictor import Predictor
from autofit.study.outcome import Outcome
from autofit.study.prediction import Expected, Prediction
from autofit.study.trial import Trial


class Foresight:
    """Predictions for a search. ``make_predictor`` is called when the first one is asked for: it starts a worker.

    What cannot be predicted is None everywhere, and ``say`` hears why, once for each reason; it is measured instead.
    """

    def __init__(self, make_predictor: Callable[[], Predictor], say: Callable[[str], None]) -> None:
        self._make_predictor = make_predictor
        self._say = say
        self._predictor: Predictor | None = None
        self._said: set[str] = set()
        self._learned: set[int] = set()

    def of(self, config: TrainConfig, trials: Sequence[Trial], *, simulate: bool = True) -> Prediction | None:
        """Prediction of a configuration, calibrated by ``trials``; ``simulate`` as in Predictor, then with its work."""
        predictor = self._ready()
        for trial in trials:
            self._learn(trial, predictor)
        return self._or_say(lambda: predictor.predict(config, simulate=simulate, with_work=simulate))

    def plain(self, configs: Sequence[TrainConfig]) -> list[Prediction | None]:
        """Prediction of each, whatever was measured since. They are traced side by side."""
        predictor = self._ready()
        predictor.prepare(configs)
        return [self._or_say(functools.partial(predictor.plain, config)) for config in configs]

    def expected(self, configs: Sequence[TrainConfig]) -> dict[TrainConfig, Expected]:
        """The plain predictions that say both bytes and seconds, as they are kept."""
        found = zip(configs, self.plain(configs), strict=True)
        return {
            config: Expected(each.likely_seconds, each.total_bytes)
            for config, each in found
            if each is not None and each.likely_seconds is not None
        }

    def likely_seconds(self, configs: Sequence[TrainConfig], trials: Sequence[Trial]) -> list[float]:
        """A figure for each, to put them in order by; infinite where nothing is known. They are traced side by side."""
        self._ready().prepare(configs)
        found = [self.of(config, trials, simulate=False) for config in configs]
        likely = [None if each is None else each.likely_seconds for each in found]
        return [math.inf if seconds is None else seconds for seconds in likely]

    def _or_say(self, predict: Callable[[], Prediction]) -> Prediction | None:
        try:
            return predict()
        except CannotPredictError as error:
            if str(error) not in self._said:
                self._said.add(str(error))
                self._say(f"Not predicted, so measured: {error}.")
            return None

    def _ready(self) -> Predictor:
        if self._predictor is None:
            self._predictor = self._make_predictor()
        return self._predictor

    def _learn(self, trial: Trial, predictor: Predictor) -> None:
        if trial.number in self._learned:
            return
        self._learned.add(trial.number)
        if trial.outcome is not Outcome.OK or trial.measurement is None:
            return
        memory = trial.measurement.memory
        predictor.learn(
            trial.config,
            needed_bytes=memory.needed,
            paged_bytes=memory.paged_state,
            context=memory.context,
            seconds=trial.measurement.step_seconds,
        )
