"""A search that predicts: what cannot fit is not run, what is borderline waits, what is likely fast comes first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from autofit.driver.foresight import Foresight
from autofit.driver.ladder import LadderStrategy
from autofit.driver.loop import Search
from autofit.driver.observer import Observer
from autofit.outcome import Outcome
from autofit.predict.needs import CannotPredictError
from autofit.prediction import Prediction, Verdict
from autofit.ranking import rank
from autofit.train_config import TrainConfig
from autofit.trial.protocol import MeasuringPlan
from tests.doubles import make_config
from tests.driver.test_ladder import MIB, needed, seconds
from tests.driver.test_loop import UNLIMITED, Setting


class MadeUpPredictor:
    """Predicts from the formulas that the runner answers from, seconds off by ``factor``."""

    def __init__(self, verdict: Callable[[TrainConfig], Verdict], factor: float = 1.3) -> None:
        self.verdict = verdict
        self.factor = factor
        self.learned: list[TrainConfig] = []

    def predict(self, config: TrainConfig) -> Prediction:
        likely = seconds(config) * self.factor
        return Prediction(
            verdict=self.verdict(config),
            bytes_by_category={"weights": needed(config)},
            live_bytes=needed(config),
            total_bytes=needed(config),
            step_seconds=(likely, likely),
        )

    def learn(self, config: TrainConfig, **measured: object) -> None:
        self.learned.append(config)


def search(setting: Setting, predictor: object, observer: Observer | None = None) -> str:
    watcher = observer or Observer()
    foresight = Foresight(lambda: predictor, watcher.say)  # type: ignore[arg-type, return-value]
    return Search(
        study=setting.study(),
        situation=setting.situation,
        space=setting.space,
        strategy=LadderStrategy(lambda config: foresight.likely_seconds(config, setting.study().trials())),
        budget=UNLIMITED,
        plan=MeasuringPlan(),
        make_runner=lambda: setting.runner,
        observer=watcher,
        foresight=foresight,
    ).run()


def truly(config: TrainConfig) -> Verdict:
    return Verdict.NO if needed(config) > 2000 * MIB else Verdict.FITS


def test_what_cannot_fit_is_stored_with_its_bytes_and_never_run(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    search(setting, MadeUpPredictor(truly))
    trials = setting.study().trials()
    skipped = [trial for trial in trials if trial.outcome is Outcome.SKIPPED]
    assert skipped and not any(trial.outcome is Outcome.OOM for trial in trials)
    assert not {trial.config for trial in skipped} & set(setting.runner.asked)
    assert all("predicted not to fit" in trial.reason and "iB" in trial.reason for trial in skipped)


def test_it_recommends_what_the_search_without_prediction_does_in_fewer_runs(tmp_path: Path) -> None:
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
    with_it, without = Setting(tmp_path / "with"), Setting(tmp_path / "without")
    search(with_it, MadeUpPredictor(truly))
    without.search()
    best = [rank(setting.study().trials()).best for setting in (with_it, without)]
    assert best[0] is not None and best[1] is not None
    assert best[0].measurement.step_seconds <= best[1].measurement.step_seconds
    assert len(with_it.runner.asked) < len(without.runner.asked)


def test_every_trial_that_was_measured_teaches_and_keeps_what_was_expected_of_it(tmp_path: Path) -> None:
    setting, predictor = Setting(tmp_path), MadeUpPredictor(truly)
    search(setting, predictor)
    trials = [trial for trial in setting.study().trials() if not trial.whole]
    assert all(trial.prediction is not None for trial in trials)
    measured = {trial.config for trial in trials if trial.outcome is Outcome.OK}
    assert predictor.learned and set(predictor.learned) <= measured


def test_what_is_borderline_is_tried_after_everything_else(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    tight = make_config(micro_batch_size=4, accumulation_steps=8, precision="bf16")

    def verdict(config: TrainConfig) -> Verdict:
        return Verdict.BORDERLINE if config == tight else truly(config)

    search(setting, MadeUpPredictor(verdict))
    asked = [config for config, plan in zip(setting.runner.asked, setting.runner.plans, strict=True) if not plan.whole]
    assert tight not in asked or asked.index(tight) == len(asked) - 1


def test_what_cannot_be_predicted_is_measured_and_said_once(tmp_path: Path) -> None:
    class Clueless:
        def predict(self, config: TrainConfig) -> Prediction:
            raise CannotPredictError("RuntimeError: nonzero is data-dependent")

        def learn(self, config: TrainConfig, **measured: object) -> None:
            raise AssertionError("there is nothing to learn with")

    heard: list[str] = []

    class Listener(Observer):
        def say(self, sentence: str) -> None:
            heard.append(sentence)

    setting = Setting(tmp_path)
    clueless = Clueless()
    clueless.learn = lambda config, **measured: None  # type: ignore[method-assign]
    search(setting, clueless, Listener())
    assert heard == ["Not predicted, so measured: RuntimeError: nonzero is data-dependent."]
    assert rank(setting.study().trials()).best is not None
