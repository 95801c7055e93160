"""The loop over a formula: storing, budgets, confirmation, interruption."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from autofit.device.kinds import kind_of
from autofit.driver.budget import Budget, num_counted
from autofit.driver.crew import Single
from autofit.driver.loop import Search
from autofit.driver.nothing_fits import least_need
from autofit.driver.observer import Observer
from autofit.driver.rounds import next_round
from autofit.driver.strategy import make_strategy
from autofit.job.situation import Situation
from autofit.knobs.recipe import Recipe, recipe_for
from autofit.knobs.space import SearchSpace, SpaceRequest
from autofit.knobs.train_config import TrainConfig
from autofit.study.outcome import Outcome
from autofit.study.ranking import rank
from autofit.study.store import Study, load_study, open_study
from autofit.study.trial import RunResult
from autofit.trial.protocol import MeasuringPlan
from autofit.trial.runner import ProcessRunner
from tests.doubles import FormulaRunner, make_measurement, make_situation, make_trial, recipe_key
from tests.driver.test_strategy import LEFT_OUT, MIB, needed, seconds
from tests.study.test_comparison import disturbed
from tests.study.test_store import make_record

UNLIMITED = Budget(seconds=None, trials=None)


class Setting:
    """A study over a formula; ``search`` makes one run of the loop over it."""

    def __init__(
        self,
        folder: Path,
        before: Callable[[TrainConfig], None] = lambda config: None,
        situation: Situation | None = None,
        request: SpaceRequest | None = None,
    ) -> None:
        self.situation = situation or make_situation()
        self.space = SearchSpace(self.situation, request or SpaceRequest(forbid=LEFT_OUT))
        self.storage = f"sqlite:///{folder / 'studies.db'}"
        configs = {recipe_key(recipe_for(config, self.situation)): config for config in self.space.configs}
        self.runner = FormulaRunner(configs, seconds, needed, 2000 * MIB, before)
        self.made = 0

    def study(self) -> Study:
        return open_study(self.storage, make_record(), "one", fresh=False)

    def search(
        self, budget: Budget = UNLIMITED, observer: Observer | None = None, baseline: TrainConfig | None = None
    ) -> str:
        def make_runner() -> FormulaRunner:
            self.made += 1
            return self.runner

        study = self.study()
        return Search(
            study=study,
            situation=self.situation,
            space=self.space,
            strategy=make_strategy("autofit", self.space),
            budget=budget,
            plan=MeasuringPlan(),
            crew=Single(study, self.situation, make_runner),
            observer=observer or Observer(),
            baseline=baseline,
        ).run()


def test_every_trial_is_stored_before_it_is_told(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    seen = []

    class Checking(Observer):
        def ended(self, trial: object, trials: object) -> None:
            seen.append(trial in load_study(setting.storage, "one").trials())

    setting.search(observer=Checking())
    assert seen and all(seen)


def test_before_each_trial_the_end_is_foretold_and_it_comes_nearer(tmp_path: Path) -> None:
    class Listening(Observer):
        short: ClassVar[list[float]] = []
        whole: ClassVar[list[float]] = []

        def begun(self, number: int, config: TrainConfig, *, whole: bool) -> None:
            self.told = self.whole if whole else self.short

        def expects(self, seconds: float) -> None:
            self.told.append(seconds)

    setting = Setting(tmp_path)
    setting.search(observer=Listening())
    # The first is the reference's, of which no sampler was asked.
    assert len(Listening.short) == sum(not trial.whole for trial in setting.study().trials()) - 1
    assert max(Listening.short) > Listening.short[-1] > 0
    assert Listening.whole[0] > Listening.whole[-1] > 0
    assert len(Listening.whole) == sum(trial.whole for trial in setting.study().trials())


def test_a_second_run_of_the_same_search_runs_nothing(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    first = setting.search()
    asked = len(setting.runner.asked)
    assert setting.search() == first
    assert len(setting.runner.asked) == asked and setting.made == 1


def test_a_search_that_is_interrupted_keeps_everything_and_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = Setting(tmp_path)
    whole.search()
    countdown = [4]

    def interrupt(config: TrainConfig) -> None:
        countdown[0] -= 1
        if countdown[0] == 0:
            raise KeyboardInterrupt

    (tmp_path / "other").mkdir()
    setting = Setting(tmp_path / "other", interrupt)
    with pytest.raises(KeyboardInterrupt):
        setting.search()
    assert len(setting.study().trials()) == 3
    setting.search()
    assert setting.runner.asked == whole.runner.asked


def test_the_number_of_trials_is_never_exceeded(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    reason = setting.search(Budget(seconds=None, trials=5))
    assert "--max-trials" in reason
    assert num_counted(setting.study().trials()) == 5


def test_one_trial_is_run_even_in_the_smallest_budget(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    assert "--budget" in setting.search(Budget(seconds=0.01, trials=None))
    assert len(setting.study().trials()) >= 1


def test_time_spent_before_counts(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    setting.search(Budget(seconds=None, trials=2))
    before = len(setting.runner.asked)
    setting.study().spend(1000.0)
    setting.search(Budget(seconds=500.0, trials=None))
    assert len(setting.runner.asked) == before


def test_the_first_and_the_reference_are_run_whole(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    setting.search()
    ranking = rank(setting.study().trials())
    assert ranking.best is not None and ranking.best.measurement.whole
    assert ranking.reference is not None and ranking.reference.measurement is not None
    assert ranking.reference.measurement.whole
    assert next_round(setting.study().trials(), kind_of("cpu")) is None
    assert setting.runner.plans[-1].whole and setting.runner.plans[-1].slower_than_seconds is None


def test_later_trials_know_the_best_so_far(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    setting.search()
    first, second = setting.runner.plans[:2]
    assert first.slower_than_seconds is None and second.slower_than_seconds == seconds(setting.runner.asked[0])


def test_what_must_be_compiled_first_is_put_off_where_the_budget_has_no_time_for_it(tmp_path: Path) -> None:
    def compiled(setting: Setting) -> bool:
        return any(config["compile"] != "off" for config in setting.runner.asked)

    with_compile = make_situation(missing={})
    for budget, tried in ((60.0, False), (600.0, True)):
        folder = tmp_path / str(budget)
        folder.mkdir()
        setting = Setting(folder, situation=with_compile)
        reason = setting.search(Budget(seconds=budget, trials=None))
        assert compiled(setting) == tried
        assert ("compiled first" in reason) != tried
        assert rank(setting.study().trials()).best is not None


def test_the_luckiest_of_single_measurements_is_measured_again_before_it_is_recommended(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    seen: set[TrainConfig] = set()

    def lucky_at_first(config: TrainConfig) -> float:
        first_time = config not in seen
        seen.add(config)
        is_lucky = first_time and config["attention"] == "eager" and config.accumulation_steps == 1
        return seconds(config) * (0.3 if is_lucky else 1.0)

    setting.runner._seconds = lucky_at_first
    setting.search()
    best = rank(setting.study().trials()).best
    assert best is not None and best.trial.config["attention"] == "sdpa" and best.trial.whole


def test_finalists_run_turn_by_turn_and_back_again(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    setting.search()
    plans = zip(setting.runner.asked, setting.runner.plans, strict=True)
    whole = [config for config, plan in plans if plan.whole]
    finalists_ = list(dict.fromkeys(whole))
    assert len(finalists_) >= 2 and all(whole.count(config) == 3 for config in finalists_)
    # No one runs again before the others ran as often.
    for place in range(1, len(whole)):
        counts = [whole[:place].count(config) for config in finalists_]
        assert max(counts) - min(counts) <= 1 or whole[place] not in whole[:place]


def test_a_baseline_is_measured_first_and_beside_the_finalists(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    baseline = setting.space.at_micro_batch(setting.space.configs[0], 2)
    setting.search(baseline=baseline)
    assert setting.runner.asked[0] == baseline and setting.runner.asked.count(baseline) == 4
    ranking = rank(setting.study().trials())
    assert ranking.reference is not None and ranking.reference.config == baseline
    assert ranking.best is not None and ranking.best.speedup is not None and ranking.best.speedup > 1


def test_a_baseline_of_a_looser_class_is_measured_and_not_recommended(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    loose = setting.space.at_micro_batch(setting.space.configs[0], 2).replace(precision="pure_bf16")
    assert loose not in setting.space
    setting.runner._configs[recipe_key(recipe_for(loose, setting.situation))] = loose
    setting.runner._seconds = lambda config: 0.01 if config == loose else seconds(config)
    setting.search(baseline=loose)
    trials = setting.study().trials()
    ranking = rank(trials)
    assert ranking.reference is not None and ranking.reference.config == loose
    assert ranking.best is not None and ranking.best.trial.config in setting.space
    assert sum(trial.config == loose for trial in trials) == 4


class FailingWhole(FormulaRunner):
    """Configurations for which ``fails`` is true measure well short, and fail whole."""

    fails: Callable[[TrainConfig], bool] = staticmethod(lambda config: False)
    outcome = Outcome.ERROR

    def run(self, recipe: Recipe, plan: MeasuringPlan, name: str) -> RunResult:
        result = super().run(recipe, plan, name)
        if plan.whole and self.fails(self._configs[recipe_key(recipe)]):
            return RunResult(outcome=self.outcome, reason="could not create a primitive", wall_seconds=0.1)
        return result


def failing(folder: Path, fails: Callable[[TrainConfig], bool], outcome: Outcome = Outcome.ERROR) -> Setting:
    setting = Setting(folder)
    setting.runner.__class__ = FailingWhole
    setting.runner.fails, setting.runner.outcome = fails, outcome
    return setting


@pytest.mark.parametrize("outcome", [Outcome.ERROR, Outcome.CRASHED, Outcome.TIMEOUT, Outcome.OOM])
def test_what_fails_its_whole_run_is_run_whole_once_and_the_next_one_is_confirmed(
    tmp_path: Path, outcome: Outcome
) -> None:
    first = Setting(tmp_path)
    first.search()
    best = rank(first.study().trials()).best
    assert best is not None
    (tmp_path / "other").mkdir()
    setting = failing(tmp_path / "other", lambda config: config == best.trial.config, outcome)
    setting.search()
    plans = zip(setting.runner.asked, setting.runner.plans, strict=True)
    assert sum(plan.whole for config, plan in plans if config == best.trial.config) == 1
    ranking = rank(setting.study().trials())
    assert ranking.best is not None and ranking.best.trial.config != best.trial.config
    assert ranking.best.is_confirmed and len(ranking.best.measurement.rounds) >= 3
    failed = {trial.config: trial for trial in ranking.failed}
    assert failed[best.trial.config].outcome is outcome


def test_where_every_whole_run_fails_nothing_is_recommended(tmp_path: Path) -> None:
    setting = failing(tmp_path, lambda config: True)
    setting.search()
    ranking = rank(setting.study().trials())
    assert ranking.best is None and not ranking.ranked


def test_finalists_run_equal_numbers_of_rounds_and_a_round_as_a_whole(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    setting.search()
    by_round: dict[int | None, set[TrainConfig]] = {}
    for trial in setting.study().trials():
        if trial.whole:
            by_round.setdefault(trial.round, set()).add(trial.config)
    assert set(by_round) == {0, 1, 2} and len({frozenset(configs) for configs in by_round.values()}) == 1


def test_confirming_takes_at_most_a_third_of_a_short_budget(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    setting.search(Budget(seconds=30.0, trials=None))
    trials = setting.study().trials()
    assert sum(trial.wall_seconds for trial in trials if trial.whole) <= 10.0
    assert sum(not trial.whole for trial in trials) >= sum(trial.whole for trial in trials)


def test_a_trial_that_the_budget_ends_is_a_row_and_ends_the_search_and_may_run_again(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    run = setting.runner.run

    def cut_short(recipe: Recipe, plan: MeasuringPlan, name: str) -> RunResult:
        if len(setting.runner.asked) == 2:
            setting.runner.asked.append(setting.runner._configs[recipe_key(recipe)])
            return RunResult(outcome=Outcome.INTERRUPTED, reason="the budget ended while it was in phase 'build'")
        return run(recipe, plan, name)

    setting.runner.run = cut_short
    assert "--budget" in setting.search(Budget(seconds=1000.0, trials=None))
    interrupted = setting.study().trials()[-1]
    assert interrupted.outcome is Outcome.INTERRUPTED and len(setting.runner.asked) == 3
    setting.search(Budget(seconds=2000.0, trials=None))
    assert setting.runner.asked.count(interrupted.config) >= 2
    assert interrupted.config in {each.trial.config for each in rank(setting.study().trials()).ranked}


def test_a_budget_that_earlier_runs_spent_says_that_a_larger_one_goes_on(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    setting.search(Budget(seconds=None, trials=2))
    setting.study().spend(1000.0)
    assert "a larger one goes on" in setting.search(Budget(seconds=500.0, trials=None))


def test_where_every_whole_run_fails_the_sentence_says_that_and_not_that_nothing_fits(tmp_path: Path) -> None:
    setting = failing(tmp_path, lambda config: True)
    stopped = setting.search()
    trials = setting.study().trials()
    sentence = least_need(NoRunner(), setting.situation, setting.space, trials, MeasuringPlan(), stopped=stopped)
    assert "No configuration got through its whole run" in sentence and "could not create a primitive" in sentence


def test_where_the_budget_ended_the_first_trial_the_sentence_says_that(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    trials = [make_trial(0, outcome=Outcome.INTERRUPTED, reason="the budget ended while it was in phase 'build'")]
    sentence = least_need(NoRunner(), setting.situation, setting.space, trials, MeasuringPlan(), stopped="")
    assert sentence == "Nothing was measured: the budget ended while it was in phase 'build'; raise --budget."


class NoRunner:
    """Nothing has to be run for the sentence."""

    def runner(self, situation: Situation) -> ProcessRunner:
        raise AssertionError("nothing is run")


def test_what_is_confirmed_on_a_cpu_has_memory_to_spare_and_short_trials_do_not_need_it(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    setting.search()
    assert {plan.spare_share > 0 for plan in setting.runner.plans if plan.whole} == {True}
    assert {plan.spare_share > 0 for plan in setting.runner.plans if not plan.whole} == {False}


def test_what_others_slowed_is_run_again_before_finalists_are_chosen(tmp_path: Path) -> None:
    quiet = Setting(tmp_path)
    quiet.search()
    best = rank(quiet.study().trials()).best
    assert best is not None
    (tmp_path / "busy").mkdir()
    setting = Setting(tmp_path / "busy")
    run, short_runs = setting.runner.run, []

    def run_beside_another(recipe: Recipe, plan: MeasuringPlan, name: str) -> RunResult:
        result = run(recipe, plan, name)
        if plan.whole or recipe_key(recipe) != recipe_key(recipe_for(best.trial.config, setting.situation)):
            return result
        short_runs.append(name)
        assert result.measurement is not None
        slowed = make_measurement(1.9 * result.measurement.step_seconds) if len(short_runs) == 1 else result.measurement
        return replace(result, measurement=disturbed(slowed, 1.0 if len(short_runs) == 1 else 0.0))

    setting.runner.run = run_beside_another  # type: ignore[method-assign]
    setting.search()
    found = rank(setting.study().trials()).best
    assert len(short_runs) == 2 and found is not None and found.trial.config == best.trial.config


def test_what_a_repeat_leaves_of_the_trials_is_searched_before_finalists_run(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    run, short_runs = setting.runner.run, Counter[tuple[object, ...]]()

    def run_beside_another(recipe: Recipe, plan: MeasuringPlan, name: str) -> RunResult:
        """Every first run is said to take as long as all others, and to have been disturbed."""
        result = run(recipe, plan, name)
        short_runs[recipe_key(recipe)] += not plan.whole
        if plan.whole or short_runs[recipe_key(recipe)] > 1 or result.measurement is None:
            return result
        return replace(result, measurement=disturbed(make_measurement(9.0), 1.0))

    setting.runner.run = run_beside_another  # type: ignore[method-assign]
    budget = Budget(seconds=None, trials=8)
    setting.search(budget)
    trials = setting.study().trials()
    assert max(short_runs.values()) == 2
    assert num_counted(trials) == 8
    setting.search(budget)
    assert setting.study().trials() == trials


def test_where_the_only_one_that_ran_fails_its_whole_run_leaner_ones_are_looked_for(tmp_path: Path) -> None:
    """Only one size fits short, and its whole run does not: the search goes on to what needs less."""
    setting = Setting(tmp_path, request=SpaceRequest(fix=PLAIN, forbid=LEFT_OUT))
    run = setting.runner.run

    def whole_runs_need_more(recipe: Recipe, plan: MeasuringPlan, name: str) -> RunResult:
        result = run(recipe, plan, name)
        if plan.whole and result.measurement is not None and result.measurement.micro_batch_size > 2:
            return RunResult(outcome=Outcome.OOM, reason="the memory limit was reached", wall_seconds=0.1)
        return result

    setting.runner.run = whole_runs_need_more  # type: ignore[method-assign]
    setting.search()
    best = rank(setting.study().trials()).best
    assert best is not None and best.is_confirmed and best.trial.config.micro_batch_size <= 2


PLAIN = {"precision": "fp32", "attention": "sdpa", "optimizer": "adamw_torch_fused", "activation_checkpointing": "off"}
