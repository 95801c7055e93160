"""Data of the charts: the Pareto front, what is compared, and units."""

from __future__ import annotations

import dataclasses

import pytest

from autofit.report.html import chart_data
from autofit.study.outcome import Outcome
from autofit.study.result import Result
from autofit.units import GIB, MIB
from tests.doubles import make_trial
from tests.export.test_training_arguments import make_result
from tests.report.html.made_up import made_up_study, predicted


@pytest.fixture(scope="module")
def result() -> Result:
    return made_up_study()[0]


def test_the_front_holds_what_nothing_beats_in_time_and_memory_together(result: Result) -> None:
    rows = chart_data.trade_off(result)
    assert len(rows) == len(result.ranking.ranked)
    for row in rows:
        others = [each for each in rows if each["rank"] != row["rank"]]
        beaten = any(each["time"] <= row["time"] and each["memory"] <= row["memory"] for each in others)
        assert row["front"] != beaten
    assert [row["kind"] for row in rows].count("recommended") == 1


def test_units_follow_the_studys_largest_values() -> None:
    small = make_result(make_trial(seconds=0.2, needed=300 * MIB))
    (row,) = chart_data.trade_off(small)
    assert (row["time"], row["memory"]) == (pytest.approx(200), pytest.approx(300))
    scale = chart_data.Scale(make_result(make_trial(seconds=2.0, needed=3 * GIB)))
    assert (scale.time_unit, scale.memory_unit) == ("s", "GiB")


def test_categories_of_a_finalist_add_up_to_its_prediction(result: Result) -> None:
    rows = chart_data.memory_parts(result)
    for each in chart_data.finalists(result):
        own = [row for row in rows if row["configuration"] == chart_data.label(each)]
        assert each.trial.prediction is not None
        assert sum(row["memory"] for row in own) == pytest.approx(each.trial.prediction.total_bytes / GIB)
        assert {row["measured"] for row in own} == {each.measurement.memory.needed / GIB}


def test_parts_of_a_finalists_step_add_up_to_it_as_measured_and_as_predicted(result: Result) -> None:
    best = result.ranking.best
    assert best is not None
    own = [row for row in chart_data.step_parts(result) if row["configuration"] == chart_data.label(best)]
    sums = {source: sum(row["time"] for row in own if row["source"] == source) for source in ("measured", "predicted")}
    # The longest step of the study takes more than a second.
    assert sums["measured"] == pytest.approx(best.measurement.step_seconds)
    assert best.trial.prediction is not None and best.trial.prediction.work is not None
    assert sums["predicted"] == pytest.approx(sum(best.trial.prediction.work.seconds_by_part.values()))


def test_a_curve_holds_one_combination_at_several_sizes_and_single_ones_have_none(result: Result) -> None:
    rows = chart_data.micro_batch_curves(result)
    combinations = {row["combination"] for row in rows}
    assert combinations == {
        "defaults",
        "precision=bf16",
        "activation_checkpointing=every_layer",
        "precision=bf16, activation_checkpointing=every_layer",
    }
    for combination in combinations:
        sizes = [row["micro_batch"] for row in rows if row["combination"] == combination]
        assert len(sizes) > 1 and sizes == sorted(sizes)
    assert chart_data.micro_batch_curves(make_result(make_trial())) == []


def test_the_fastest_so_far_is_told_by_short_trials_alone_which_were_measured_alike() -> None:
    trials = [
        make_trial(0, seconds=2.0, whole=False),
        make_trial(1, outcome=Outcome.OOM, micro_batch_size=16, accumulation_steps=2),
        make_trial(2, seconds=1.0, whole=False, precision="bf16"),
        make_trial(3, seconds=0.5, precision="bf16"),
        make_trial(4, outcome=Outcome.SKIPPED, precision="bf16", attention="eager"),
    ]
    rows = chart_data.course(make_result(*trials))
    assert [row["trial"] for row in rows] == [0, 1, 2, 3]
    assert [row["best"] for row in rows] == [2.0, 2.0, 1.0, 1.0]
    assert [row["outcome"] for row in rows] == ["short trial", "out of memory", "short trial", "whole run"]
    assert [row["spent"] for row in rows] == [1.0, 2.0, 3.0, 4.0]


def test_utilization_is_the_share_of_the_step_that_its_arithmetic_takes_at_the_peak() -> None:
    (row,) = chart_data.utilization(make_result(predicted(make_trial(seconds=2.0), 1.0, GIB)))
    assert (row["mfu"], row["bandwidth"], row["again"]) == ("20.0%", "25.0%", "33%")


def test_what_a_knob_is_worth_is_told_for_every_neighbour_that_is_known() -> None:
    _, explanation = made_up_study()
    rows = {row["change"]: row for row in chart_data.knob_effects(explanation)}
    assert rows["precision=fp32"]["slower"] == pytest.approx(100, rel=0.02)
    assert rows["precision=fp32"]["low"] < rows["precision=fp32"]["slower"] < rows["precision=fp32"]["high"]
    assert set(rows) < {f"{each.knob}={each.value}" for each in explanation.neighbours}


def test_what_trials_corrected_downwards_leaves_the_categories_as_they_were_and_stands_in_the_sum() -> None:
    trial = predicted(make_trial(needed=GIB), 1.0, GIB)
    assert trial.prediction is not None
    bytes_by_category = {**trial.prediction.bytes_by_category, "calibration": -GIB // 4}
    prediction = dataclasses.replace(
        trial.prediction, bytes_by_category=bytes_by_category, total_bytes=sum(bytes_by_category.values())
    )
    rows = chart_data.memory_parts(make_result(dataclasses.replace(trial, prediction=prediction)))
    assert sum(row["memory"] for row in rows) == pytest.approx(1.0, rel=1e-6)
    assert all(row["predicted"] == pytest.approx(0.75, rel=1e-6) for row in rows)
