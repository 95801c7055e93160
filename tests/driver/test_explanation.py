"""Sentences about the configurations next to the recommendation."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from autofit.driver.explanation import explain
from autofit.errors import UserError
from autofit.knobs.own_program import own_config
from autofit.knobs.space import SpaceRequest
from autofit.report.explanation import explanation_report
from autofit.study.outcome import Outcome
from autofit.study.prediction import Expected
from autofit.study.trial import Trial
from tests.doubles import GIB, make_config, make_situation, make_trial
from tests.driver.test_strategy import gpu_space, search
from tests.knobs.test_own_program import program_of, situation_of

REQUEST = SpaceRequest(numerics="exact")


def study() -> list[Trial]:
    return [
        make_trial(0, seconds=1.0, needed=4 * GIB),
        make_trial(1, seconds=1.5, attention="eager", needed=5 * GIB),
        make_trial(2, seconds=1.1, activation_checkpointing="every_layer", needed=2 * GIB),
        make_trial(3, outcome=Outcome.OOM, micro_batch_size=16, accumulation_steps=2),
        make_trial(4, seconds=1.2, micro_batch_size=4, accumulation_steps=8, needed=3 * GIB),
    ]


def test_each_knob_has_what_was_measured_beside_the_recommendation() -> None:
    said = {(each.knob, each.value): each for each in explain(make_situation(), REQUEST, study()).neighbours}
    eager = said["attention", "eager"]
    assert eager.basis == "measured" and eager.slower == pytest.approx(0.5) and eager.more_bytes == GIB
    assert said["micro_batch_size", 16].basis == "oom"
    assert said["micro_batch_size", 4].slower == pytest.approx(0.2)
    # Five trials do not tell what this value does, and a figure with an interval of 90 % would say nothing.
    assert said["activation_checkpointing", "every_2nd"].basis == "unknown"
    assert said["activation_checkpointing", "every_2nd"].slower is None


def test_what_the_trials_do_not_tell_is_said_as_it_was_predicted() -> None:
    best, other = make_config(), make_config(activation_checkpointing="every_2nd")
    predicted = {best: Expected(2.0, 4 * GIB), other: Expected(2.5, 3 * GIB)}
    neighbours = explain(make_situation(), REQUEST, study(), predicted).neighbours
    said = {(each.knob, each.value): each for each in neighbours}["activation_checkpointing", "every_2nd"]
    assert said.basis == "predicted" and said.slower == pytest.approx(0.25) and said.more_bytes == -GIB


def test_a_micro_batch_that_was_not_tried_is_said_as_it_was_predicted() -> None:
    smaller = make_config(micro_batch_size=4, accumulation_steps=8)
    predicted = {make_config(): Expected(2.0, 4 * GIB), smaller: Expected(3.0, GIB)}
    neighbours = explain(make_situation(), REQUEST, study()[:2], predicted).neighbours
    said = {(each.knob, each.value): each for each in neighbours}
    assert said["micro_batch_size", 4].basis == "predicted"


def test_loader_workers_are_not_said_to_be_predicted() -> None:
    situation = situation_of()
    own = own_config(program_of(situation))
    trial = replace(make_trial(0), values=dict(own))
    predicted = {own.replace(loader=value): Expected(2.0, 4 * GIB) for value in ("default", "workers_2")}
    neighbours = explain(situation, REQUEST, [trial], predicted).neighbours
    said = {(each.knob, each.value): each for each in neighbours}["loader", "workers_2"]
    assert said.basis == "unknown" and said.slower is None


def test_less_memory_changes_the_answer_where_the_best_would_no_longer_fit() -> None:
    tight = make_situation(limit_bytes=int(4.3 * GIB))
    other = explain(tight, REQUEST, study()).less_memory
    assert other.trial is not None and other.trial.number == 2 and other.slower == pytest.approx(0.1)
    roomy = explain(make_situation(), REQUEST, study()).less_memory
    assert roomy.trial is not None and roomy.trial.number == 0


def test_what_was_not_measured_is_estimated_near_the_truth_where_effects_add_up() -> None:
    space = gpu_space(effective_batch=8)
    trials, _ = search(space, 10**12)
    explanation = explain(space.situation, space.request, trials)
    estimated = [each for each in explanation.neighbours if each.basis == "estimated" and each.slower is not None]
    assert estimated
    for each in estimated:
        assert each.spread is not None and each.slower is not None and each.slower > -each.spread


def test_it_fits_into_eighty_columns_and_says_what_was_never_in_question() -> None:
    console = Console(width=80, record=True, highlight=False)
    console.print(explanation_report(explain(make_situation(), REQUEST, study())))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "Never in question" in text and "precision=fp32" in text and "With 10 % less memory" in text


def test_a_study_without_a_measurement_has_nothing_to_explain() -> None:
    with pytest.raises(UserError, match="nothing to explain"):
        explain(make_situation(), REQUEST, [make_trial(0, outcome=Outcome.OOM)])
