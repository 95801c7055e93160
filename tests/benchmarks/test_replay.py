"""Sweeps that answer instead of a device, and the strategies that play over them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from autofit.driver.strategy import make_strategy
from autofit.knobs.recipe import recipe_for
from autofit.knobs.space import SearchSpace, SpaceRequest
from autofit.knobs.train_config import TrainConfig
from autofit.study.measurement import Memory
from autofit.study.outcome import Outcome
from autofit.study.prediction import Prediction, Verdict
from autofit.trial.protocol import MeasuringPlan
from benchmarks.search.contest import Truth, contest
from benchmarks.search.peer_strategies import HalveOnOutOfMemory, MicroBatchProbing, PowerThenBisect, StagedGreedy
from benchmarks.search.replay import RecordedPredictions, ReplayRunner
from benchmarks.search.sweep import Answer, Row, Sweep, read_sweep, write_sweep
from tests.doubles import make_config, make_situation
from tests.driver.test_strategy import LEFT_OUT, MIB, needed, seconds

LIMIT = 2000 * MIB


def answer(config: TrainConfig) -> Answer:
    size = needed(config)
    if size > LIMIT:
        return Answer(outcome=Outcome.OOM, reason="no room", wall_seconds=1.0)
    memory = Memory(peak_allocated=size, peak_reserved=size, context=0, paged_state=0, cap=LIMIT)
    return Answer(outcome=Outcome.OK, samples=(seconds(config),) * 4, memory=memory, wall_seconds=3.0)


@pytest.fixture(scope="module")
def sweep() -> Sweep:
    situation = make_situation(effective_batch=32, limit_bytes=LIMIT, headroom=0.0)
    request = SpaceRequest(numerics="standard", forbid=LEFT_OUT)
    rows = []
    for config in SearchSpace(situation, request).configs:
        prediction = Prediction(
            verdict=Verdict.NO if needed(config) > LIMIT else Verdict.FITS,
            bytes_by_category={"weights": needed(config)},
            live_bytes=needed(config),
            total_bytes=needed(config),
            step_seconds=(1.2 * seconds(config),) * 2,
        )
        rows.append(Row(values=dict(config), answers=(answer(config),) * 2, prediction=prediction))
    return Sweep(name="formula", situation=situation, request=msgspec.to_builtins(request), rows=tuple(rows), about={})


def test_a_sweep_is_read_as_it_was_written(sweep: Sweep, tmp_path: Path) -> None:
    path = tmp_path / "sweep.json.gz"
    write_sweep(sweep, path)
    read = read_sweep(path)
    assert (read.rows, read.situation) == (sweep.rows, sweep.situation) and len(read.space) == len(sweep.rows)


def test_a_recipe_is_answered_with_what_its_configuration_answered(sweep: Sweep) -> None:
    runner = ReplayRunner(sweep, seed=0)
    for row in sweep.rows[::17]:
        result = runner.run(recipe_for(row.config, sweep.situation), MeasuringPlan(), "")
        assert result.outcome is row.answers[0].outcome
        if result.measurement is not None:
            assert result.measurement.step_seconds == pytest.approx(seconds(row.config))
    assert runner.asked == [row.config for row in sweep.rows[::17]]


def test_a_configuration_that_was_not_swept_raises(sweep: Sweep) -> None:
    outside = make_config(optimizer="adafactor")
    with pytest.raises(KeyError):
        ReplayRunner(sweep, seed=0).run(recipe_for(outside, sweep.situation), MeasuringPlan(), "")


def test_autofit_ends_at_the_best_of_the_whole_sweep_and_runs_nothing_that_cannot_fit(sweep: Sweep) -> None:
    truth = Truth.of(sweep)
    strategy = make_strategy("autofit", sweep.space, predicts=RecordedPredictions(sweep))
    course = contest(strategy, truth, 0, most_trials=30, skips=True)
    assert course.regrets[-1] == pytest.approx(0.0, abs=1e-9) and course.ended
    assert course.out_of_memory == 0 and course.num_trials <= 20
    assert course.trials_to(0.01) <= course.num_trials and course.cost_to(0.01) <= truth.full_cost / 4


def test_each_peer_ends_where_its_rules_say(sweep: Sweep) -> None:
    truth = Truth.of(sweep)
    plain = {
        row.config.micro_batch_size: row.answers[0].outcome
        for row in sweep.rows
        if row.config.replace(micro_batch_size=8, accumulation_steps=4) == make_config()
    }
    largest = max(size for size, outcome in plain.items() if outcome is Outcome.OK)
    for peer in (HalveOnOutOfMemory, PowerThenBisect):
        course = contest(peer(), truth, 0, most_trials=30, skips=False)
        config = sweep.space.at_micro_batch(make_config(), largest)
        assert course.regrets[-1] == pytest.approx(truth.regret(config)), peer.name
    probing, staged = (
        contest(each(), truth, 0, most_trials=60, skips=False) for each in (MicroBatchProbing, StagedGreedy)
    )
    assert staged.regrets[-1] <= probing.regrets[-1]
