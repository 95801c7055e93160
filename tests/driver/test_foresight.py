"""A search that predicts: what cannot fit is not run, what is borderline waits, what is likely fast comes first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from autofit.driver.budget import Budget, num_counted
from autofit.driver.crew import Single
from autofit.driver.foresight import Foresight
from autofit.driver.loop import Search
from autofit.driver.observer import Observer
from autofit.driver.strategy import make_strategy
from autofit.knobs.space import SpaceRequest
from autofit.knobs.train_config import TrainConfig
from autofit.predict.micro_batches import CannotPredictError
from autofit.study.outcome import Outcome
from autofit.study.prediction import Prediction, Verdict
from autofit.study.ranking import rank
from autofit.trial.protocol import MeasuringPlan
from tests.doubles import make_situation
from tests.driver.test_loop import UNLIMITED, Setting
from tests.driver.test_strategy import LEFT_OUT, MIB, needed, seconds


class MadeUpPredictor:
    """Predicts from the formulas that the runner answers from, seconds off by ``factor``."""

    def __init__(self, verdict: Callable[[TrainConfig], Verdict], factor: float = 1.3) -> None:
        self.verdict = verdict
        self.factor = factor
        self.learned: list[TrainConfig] = []

    def prepare(self, configs: Sequence[TrainConfig]) -> None:
        return None

    def predict(self, config: TrainConfig, *, simulate: bool = True, with_work: bool = False) -> Prediction:
        likely = seconds(config) * self.factor
        return Prediction(
            verdict=self.verdict(config),
            bytes_by_category={"weights": needed(config)},
            live_bytes=needed(config),
            total_bytes=needed(config),
            step_seconds=(likely, likely),
        )

    def plain(self, config: TrainConfig) -> Prediction:
        return self.predict(config, simulate=False)

    def learn(self, config: TrainConfig, **measured: object) -> None:
        self.learned.append(config)


def search(setting: Setting, predictor: object, observer: Observer | None = None, budget: Budget = UNLIMITED) -> str:
    watcher = observer or Observer()
    foresight = Foresight(lambda: predictor, watcher.say)  # type: ignore[arg-type, return-value]
    study = setting.study()
    return Search(
        study=study,
        situation=setting.situation,
        space=setting.space,
        strategy=make_strategy("autofit", setting.space, predicts=foresight),
        budget=budget,
        plan=MeasuringPlan(),
        crew=Single(study, setting.situation, lambda: setting.runner),
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


def test_what_is_borderline_is_tried_after_everything_else_or_not_at_all(tmp_path: Path) -> None:
    plain = Setting(tmp_path)
    search(plain, MadeUpPredictor(truly))
    best = rank(plain.study().trials()).best
    assert best is not None
    tight = best.trial.config

    def verdict(config: TrainConfig) -> Verdict:
        return Verdict.BORDERLINE if config == tight else truly(config)

    (tmp_path / "again").mkdir()
    setting = Setting(tmp_path / "again")
    search(setting, MadeUpPredictor(verdict, factor=1.0))
    asked = [config for config, plan in zip(setting.runner.asked, setting.runner.plans, strict=True) if not plan.whole]
    assert asked.count(tight) == 1
    # What may follow it is what its own measurement made worth trying.
    assert asked.index(tight) > sum(not plan.whole for plan in plain.runner.plans) / 2
    again = rank(setting.study().trials()).best
    assert again is not None and again.trial.config == tight


def test_what_is_borderline_with_expandable_segments_already_is_tried_too(tmp_path: Path) -> None:
    fix = {"allocator": "expandable", "precision": "bf16", "attention": "sdpa", "compile": "off", "kernels": "default"}
    situation = make_situation(kind="cuda", capability=(8, 0), missing={})
    left_out = {name: values for name, values in LEFT_OUT.items() if name != "allocator"}
    request = SpaceRequest(fix=fix, forbid=left_out)
    setting = Setting(tmp_path, situation=situation, request=request)
    search(setting, MadeUpPredictor(lambda config: Verdict.BORDERLINE, factor=1.0))
    # The reference is tried where it comes; others only after they waited.
    assert len(set(setting.runner.asked)) > 1


def test_what_was_skipped_is_predicted_anew_and_stored_once(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    search(setting, MadeUpPredictor(truly))
    before = setting.study().trials()
    asked = len(setting.runner.asked)
    search(setting, MadeUpPredictor(truly))
    assert setting.study().trials() == before and len(setting.runner.asked) == asked
    # Without prediction everything is run that had been skipped and is worth it.
    setting.search()
    skipped = {trial.config for trial in before if trial.outcome is Outcome.SKIPPED}
    assert skipped & set(setting.runner.asked)


def test_skipped_rows_take_nothing_of_max_trials(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    search(setting, MadeUpPredictor(truly), budget=Budget(seconds=None, trials=6))
    trials = setting.study().trials()
    run = [trial for trial in trials if trial.outcome is not Outcome.SKIPPED]
    assert num_counted(run) == 6 and any(trial.whole for trial in run)


def test_what_cannot_be_predicted_is_measured_and_said_once(tmp_path: Path) -> None:
    class Clueless:
        def prepare(self, configs: Sequence[TrainConfig]) -> None:
            return None

        def predict(self, config: TrainConfig, *, simulate: bool = True, with_work: bool = False) -> Prediction:
            raise CannotPredictError("RuntimeError: nonzero is data-dependent")

        plain = predict

        def learn(self, config: TrainConfig, **measured: object) -> None:
            return None

    heard: list[str] = []

    class Listener(Observer):
        def say(self, sentence: str) -> None:
            heard.append(sentence)

    setting = Setting(tmp_path)
    search(setting, Clueless(), Listener())
    assert heard == ["Not predicted, so measured: RuntimeError: nonzero is data-dependent."]
    assert rank(setting.study().trials()).best is not None
