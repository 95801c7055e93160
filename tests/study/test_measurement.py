import dataclasses
import math

import pytest

from autofit.device.device import DeviceLoad
from autofit.study.measurement import (
    BatchShape,
    Measurement,
    StepSeconds,
    Window,
    pooled,
    relative_half_width,
)
from tests.doubles import make_measurement


def test_a_shortened_step_composes_with_the_interior_micro_step() -> None:
    """T(A) = T(k) + (A - k) x (interior + fetch / k), with the figures of one measured step."""
    step = StepSeconds(loop=0.001, fetch=0.003, micro_steps=(0.126, 0.144, 0.169), update=0.05)
    assert step.total == pytest.approx(0.493)
    assert step.composed(3) == step.total
    assert step.composed(8) == pytest.approx(0.493 + 5 * (0.144 + 0.001))


def test_the_parts_of_a_composed_step_add_up_to_it() -> None:
    step = StepSeconds(loop=0.001, fetch=0.003, micro_steps=(0.126, 0.144, 0.169), update=0.05)
    for accumulation in (3, 8):
        assert sum(step.parts(accumulation).values()) == pytest.approx(step.composed(accumulation))
    assert step.parts(8) == pytest.approx(
        {"loader": 0.008, "forward_backward": 0.439 + 5 * 0.144, "update": 0.05, "between_steps": 0.001}
    )


def test_the_parts_of_a_measurement_add_up_to_its_step() -> None:
    steps = (StepSeconds(loop=0.1, fetch=0.2, micro_steps=(0.3, 0.3), update=0.1),) * 3
    long, short = (BatchShape(rows=4, length=length) for length in (32, 16))
    windows = (
        Window(wall_seconds=3.0, steps=steps, shape=long),
        Window(wall_seconds=1.5, steps=(dataclasses.replace(steps[0], micro_steps=(0.05, 0.05)),) * 3, shape=short),
    )
    measurement = dataclasses.replace(
        make_measurement(accumulation_steps=2), windows=windows, shape_shares=((long, 0.25), (short, 0.75))
    )
    parts = measurement.seconds_by_part
    assert sum(parts.values()) == pytest.approx(measurement.step_seconds) == pytest.approx(0.25 * 1.0 + 0.75 * 0.5)
    assert parts == pytest.approx({"loader": 0.2, "forward_backward": 0.225, "update": 0.1, "between_steps": 0.1})


def test_a_step_that_ran_whole_is_not_composed() -> None:
    for micro_steps in ((0.2,), (0.2, 0.3), (0.1,) * 7):
        step = StepSeconds(loop=0.0, fetch=0.0, micro_steps=micro_steps, update=0.1)
        assert step.composed(len(micro_steps)) == step.total


def test_two_micro_steps_have_no_interior_to_compose_from() -> None:
    step = StepSeconds(loop=0.0, fetch=0.0, micro_steps=(0.2, 0.3), update=0.1)
    with pytest.raises(ValueError, match="interior"):
        step.composed(4)


def test_the_step_is_the_median_so_one_disturbed_sample_does_not_move_it() -> None:
    measurement = make_measurement(1.0, jitter=0.5)
    assert sorted(measurement.samples) == [0.5, 1.0, 1.0, 1.5]
    assert measurement.step_seconds == 1.0


def test_rates_follow_from_the_step() -> None:
    measurement = make_measurement(2.0, micro_batch_size=8, accumulation_steps=4)
    assert measurement.samples_per_second == 16
    assert measurement.tokens_per_second == 16 * 128


def test_warm_up_is_never_averaged_in() -> None:
    measurement = make_measurement(1.0)
    assert measurement.warmup[0].total == 2.0 and set(measurement.samples) == {1.0}


def test_uncertainty_is_student_s_interval_and_unknown_for_one_sample() -> None:
    assert relative_half_width((1.0,)) == math.inf
    assert relative_half_width((1.0, 1.0, 1.0)) == 0.0
    # 0.9, 1.0, 1.1: standard deviation 0.1, t of two degrees of freedom 4.30.
    assert relative_half_width((0.9, 1.0, 1.1)) == pytest.approx(4.30 * 0.1 / math.sqrt(3))


def test_a_window_tells_how_much_of_it_its_parts_leave_out() -> None:
    steps = (StepSeconds(loop=0.0, fetch=0.1, micro_steps=(0.4,), update=0.4),)
    assert Window(wall_seconds=1.0, steps=steps).unaccounted_share == pytest.approx(0.1)


def test_rounds_of_one_configuration_are_one_measurement_that_knows_how_far_they_differ() -> None:
    rounds = [make_measurement(seconds, needed=needed) for seconds, needed in ((1.0, 5), (1.1, 9), (1.05, 7))]
    together = pooled(dict(enumerate(rounds)))
    assert together.round_seconds == (1.0, 1.1, 1.05) and len(together.samples) == 12
    assert together.step_seconds == pytest.approx(1.05)
    assert together.memory.needed == 9
    assert together.uncertainty >= 0.05 / 1.05 - 1e-9
    assert pooled({4: rounds[0]}).rounds == (4,)


def test_pooled_rounds_keep_the_longest_start_since_later_ones_find_it_compiled() -> None:
    slow, fast = make_measurement(1.0), make_measurement(1.0)
    (first,) = slow.warmup
    slow = dataclasses.replace(slow, warmup=(dataclasses.replace(first, loop=60.0), first))
    assert pooled({0: slow, 1: fast}).starting_seconds == pytest.approx(60.0)


def test_a_device_that_was_held_back_says_by_what_and_one_at_rest_does_not() -> None:
    def measured(mask: int | None) -> Measurement:
        measurement = make_measurement(1.0)
        windows = tuple(
            dataclasses.replace(each, load_after=DeviceLoad(throttle_reasons=mask)) for each in measurement.windows
        )
        return dataclasses.replace(measurement, windows=windows)

    assert measured(0x04 | 0x20).slowed_by == ("its power limit", "its temperature")
    assert measured(0x01 | 0x02).slowed_by == () and measured(None).slowed_by == ()
