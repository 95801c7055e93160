"""The end of a search: rounds that a budget still allows."""

from __future__ import annotations

import dataclasses

from autofit.driver.budget import Budget
from autofit.study.trial import Trial
from tests.doubles import make_trial


def confirmed_reference(wall_seconds: float) -> Trial:
    return dataclasses.replace(make_trial(0, seconds=2.0, number_of_round=0), wall_seconds=wall_seconds)


def short_trials() -> list[Trial]:
    """Three that may be as fast as each other; a whole run of each takes 5.5 steps of a second."""
    return [
        make_trial(number, seconds=1.0 + number / 1000, whole=False, attention="eager", micro_batch_size=2**number)
        for number in (1, 2, 3)
    ]


def chosen(seconds_left: float, wall_seconds: float = 1.0) -> list[int]:
    trials = [confirmed_reference(wall_seconds), *short_trials()]
    budget = Budget(seconds=100.0, trials=None)
    finalists = [*trials[1:], trials[0]]
    return [trial.number for trial in budget.affordable_round(finalists, 100.0 - seconds_left, trials)]


def test_a_round_of_all_finalists_runs_where_there_is_time_for_it() -> None:
    assert chosen(30.0) == [1, 2, 3, 0]


def test_what_may_be_faster_than_the_recommendation_runs_beside_it_where_there_is_time_for_no_more() -> None:
    assert chosen(7.0) == [1, 0]
    assert chosen(6.0) == [1]
    assert chosen(5.0) == []


def test_where_the_likely_fastest_has_run_whole_nothing_smaller_than_a_round_is_run() -> None:
    fastest = dataclasses.replace(make_trial(4, seconds=0.5, number_of_round=0, precision="fp32"), wall_seconds=4.0)
    trials = [confirmed_reference(4.0), *short_trials(), fastest]
    assert Budget(seconds=100.0, trials=None).affordable_round(trials[::-1], 95.0, trials) == ()
