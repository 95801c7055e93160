"""Whole optimizer steps made of a traced micro-step and update."""

from __future__ import annotations

import numpy as np

from autofit.predict.timeline import StepBuilder
from autofit.predict.trace import Category, Phase
from tests.predict.made_up import made_up_trace, of_several_processes


def test_without_accumulation_the_first_step_is_what_was_traced() -> None:
    first = StepBuilder(made_up_trace()).first_step(1)
    peaks = first.phase_peaks()
    assert peaks[Phase.FORWARD] == 1000 + 16 + 200 + 4
    assert peaks[Phase.BACKWARD] == 1000 + 16 + 200 + 4 + 1000 + 1000
    assert peaks[Phase.UPDATE] == 1000 + 16 + 1000 + 2000 + 300


def test_a_later_step_has_the_state_from_its_beginning_and_the_last_inputs_until_new_ones_are_there() -> None:
    steady = StepBuilder(made_up_trace()).steady_step(1)
    peaks = steady.phase_peaks()
    assert peaks[Phase.FETCH] == 1000 + 2000 + 2 * 16
    assert peaks[Phase.BACKWARD] == 1000 + 2000 + 16 + 200 + 4 + 1000 + 1000


def test_with_accumulation_gradients_are_alive_in_the_forward_pass_and_incoming_ones_beside_them() -> None:
    peaks = StepBuilder(made_up_trace()).steady_step(3).phase_peaks()
    inputs = 3 * 16
    assert peaks[Phase.FORWARD] == 1000 + 2000 + inputs + 1000 + 200 + 4
    assert peaks[Phase.BACKWARD] == 1000 + 2000 + inputs + 1000 + 200 + 4 + 1000 + 1000


def test_any_further_accumulation_adds_inputs_alone() -> None:
    builder = StepBuilder(made_up_trace())
    assert builder.steady_step(8).peak_bytes - builder.steady_step(3).peak_bytes == 5 * 16


def test_inputs_fetched_ahead_are_held_besides() -> None:
    plain, ahead = StepBuilder(made_up_trace()), StepBuilder(made_up_trace(), inputs_ahead=1)
    assert ahead.steady_step(2).peak_bytes == plain.steady_step(2).peak_bytes + 16


def test_a_peaks_categories_add_up_to_it() -> None:
    for accumulation in (1, 2, 5):
        timeline = StepBuilder(made_up_trace()).steady_step(accumulation)
        categories = timeline.peak_by_category()
        assert sum(categories.values()) == timeline.peak_bytes
        assert categories[Category.WEIGHTS] == 1000 and categories[Category.OPTIMIZER_STATE] == 2000
        assert sum(size for _, size, _ in timeline.alive_at_peak()) == timeline.peak_bytes


def test_every_block_that_is_freed_was_taken_and_none_is_taken_twice() -> None:
    for timeline in (StepBuilder(made_up_trace()).first_step(4), StepBuilder(made_up_trace()).steady_step(4)):
        alive: set[int] = set()
        for event in timeline.events.tolist():
            block = abs(event) - 1
            assert (event > 0) != (block in alive)
            (alive.add if event > 0 else alive.discard)(block)


def test_other_sizes_make_another_step_of_the_same_events() -> None:
    trace = made_up_trace(2)
    builder = StepBuilder(trace)
    larger = builder.steady_step(2, np.array(made_up_trace(4).sizes))
    assert larger.peak_bytes == StepBuilder(made_up_trace(4)).steady_step(2).peak_bytes


def test_a_last_micro_step_of_several_processes_is_the_traced_one() -> None:
    peaks = StepBuilder(of_several_processes()).steady_step(2).phase_peaks()
    inputs = 2 * 16
    assert peaks[Phase.FORWARD] == 1000 + 2000 + inputs + 1000 + 200 + 4
    assert peaks[Phase.BACKWARD] == 1000 + 2000 + inputs + 1000 + 200 + 4 + 1000
    assert peaks[Phase.UPDATE] == 1000 + 2000 + inputs + 500 + 4 + 300 - 4
    assert peaks[Phase.UPDATE] < peaks[Phase.BACKWARD]
