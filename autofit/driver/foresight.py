"""What a search knows of configurations before it runs them: predictions, calibrated by the trials so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from autofit.outcome import Outcome
from autofit.predict.needs import CannotPredictError
from autofit.predict.predictor import Predictor
from autofit.prediction import Prediction
from autofit.train_config import TrainConfig
from autofit.trials import Trial


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

    def of(self, config: TrainConfig, trials: Sequence[Trial]) -> Prediction | None:
        """What is expected of a configuration, after what ``trials`` taught."""
        if self._predictor is None:
            self._predictor = self._make_predictor()
        for trial in trials:
            self._learn(trial, self._predictor)
        try:
            return self._predictor.predict(config)
        except CannotPredictError as error:
            if str(error) not in self._said:
                self._said.add(str(error))
                self._say(f"Not predicted, so measured: {error}.")
            return None

    def likely_seconds(self, config: TrainConfig, trials: Sequence[Trial]) -> float:
        """One figure to put configurations in order by; infinite where nothing is known."""
        prediction = self.of(config, trials)
        likely = None if prediction is None else prediction.likely_seconds
        return math.inf if likely is None else likely

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
