"""Comparisons of measurements: rounds that both ran, single runs, disturbed rounds."""

from __future__ import annotations

import dataclasses

import pytest

from autofit.device.device import DeviceLoad
from autofit.study.comparison import compare
from autofit.study.measurement import Measurement, pooled
from tests.doubles import make_measurement


def test_drift_that_falls_on_both_alike_cancels_in_the_ratio_of_rounds() -> None:
    drift = (1.0, 1.3, 0.9)
    first, second = (rounds_of({n: base * factor for n, factor in enumerate(drift)}) for base in (2.0, 1.0))
    against = compare(first, second)
    assert against.ratio == pytest.approx(2.0) and against.spread == pytest.approx(0.0) and against.rounds == 3


def rounds_of(seconds: dict[int, float], cores_taken: dict[int, float] | None = None) -> Measurement:
    """Whole runs by round; others keep ``cores_taken`` busy in some of them."""
    return pooled({n: disturbed(make_measurement(s), (cores_taken or {}).get(n, 0.0)) for n, s in seconds.items()})


def disturbed(measurement: Measurement, cores: float) -> Measurement:
    windows = [
        dataclasses.replace(
            window,
            load_before=DeviceLoad(others_seconds=0.0),
            load_after=DeviceLoad(others_seconds=cores * window.wall_seconds),
        )
        for window in measurement.windows
    ]
    return dataclasses.replace(measurement, windows=tuple(windows))


def test_only_rounds_that_both_ran_are_compared() -> None:
    # The first round was slow for all; the second configuration did not run in the others.
    first, second = rounds_of({0: 67.0, 1: 57.7, 2: 59.9}), rounds_of({0: 69.9})
    against = compare(second, first)
    assert against.rounds == 1 and against.ratio == pytest.approx(69.9 / 67.0)


def test_runs_that_share_no_round_are_called_single_runs() -> None:
    against = compare(make_measurement(2.0, jitter=0.01), rounds_of({3: 1.0}))
    assert against.rounds == 0 and against.label == "single runs"
    assert against.ratio == pytest.approx(2.0) and against.spread > 0


def test_a_disturbed_round_counts_only_where_there_is_no_other() -> None:
    first = rounds_of({0: 1.0, 1: 3.0, 2: 1.0}, cores_taken={1: 1.5})
    second = rounds_of({0: 1.0, 1: 1.0, 2: 1.0})
    assert first.undisturbed_rounds == {0, 2}
    assert compare(first, second).ratio == pytest.approx(1.0) and compare(first, second).rounds == 2
    assert compare(rounds_of({1: 3.0}, cores_taken={1: 1.5}), second).ratio == pytest.approx(3.0)


def test_rounds_differ_by_what_all_of_them_do_where_only_one_was_undisturbed() -> None:
    disturbed_ones = rounds_of({0: 1.0, 1: 1.2}, cores_taken={1: 1.5})
    assert disturbed_ones.compared_rounds == {0, 1}
    assert disturbed_ones.round_spread == pytest.approx(0.1 / disturbed_ones.step_seconds)
    assert disturbed_ones.uncertainty >= disturbed_ones.round_spread
